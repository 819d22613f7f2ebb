#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/countdown_config.hpp"
#include "pg/custom_countdowns.hpp"
#include "pg/errors.hpp"
#include "pg/jsonb_input.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "funcapi.h"
#include "utils/fmgrprotos.h"
#include "utils/tuplestore.h"
}

namespace whisperer::pg {

namespace {

constexpr int max_preview = 1000;

bool refuse(core::FieldError *error, const char *field, const char *message) {
    core::set_field_error(error, field, message,
                          "Give {\"choice\": \"fixed\", \"kwargs\": {\"seconds\": 60}}, for instance.");
    return false;
}

double uniform(void *) {
    return pg_prng_double(&pg_global_prng_state);
}

// An array of nothing but numbers; anything else stays Kind::other.
void read_numbers(const JsonbValue &value, core::Kwarg *kwarg) {
    int count;
    JsonbValue *elements = json_elements(value.val.binary.data, &count);
    double *numbers = (double *)palloc(sizeof(double) * (size_t)(count + 1));
    for (int i = 0; i < count; i++) {
        bool whole;
        if (elements[i].type != jbvNumeric)
            return;
        numbers[i] = json_number(elements[i], &whole);
    }
    kwarg->kind = core::Kwarg::Kind::numbers;
    kwarg->numbers = numbers;
    kwarg->count = (size_t)count;
}

core::Kwarg read_kwarg(const JsonMember &member) {
    core::Kwarg kwarg = {utf8_slice(member.key), core::Kwarg::Kind::other, 0, nullptr, 0, false};
    if (member.value.type == jbvNumeric) {
        kwarg.kind = core::Kwarg::Kind::number;
        kwarg.number = json_number(member.value, &kwarg.whole);
    } else if (json_is_array(member.value)) {
        read_numbers(member.value, &kwarg);
    }
    return kwarg;
}

void read_kwargs(const JsonMember *member, core::CountdownInput *input) {
    JsonMembers members = json_members(member->value.val.binary.data);
    core::Kwarg *kwargs = (core::Kwarg *)palloc(sizeof(core::Kwarg) * (size_t)(members.count + 1));
    for (int i = 0; i < members.count; i++)
        kwargs[i] = read_kwarg(members.items[i]);
    input->kwargs = kwargs;
    input->kwarg_count = (size_t)members.count;
}

bool read_config(Jsonb *config, core::CountdownInput *input, core::FieldError *error) {
    if (!json_is_object(config))
        return refuse(error, "retry_countdown_config", psprintf("is %s, not an object", json_kind(config)));
    JsonMembers members = json_members(&config->root);
    for (int i = 0; i < members.count; i++) {
        const char *key = members.items[i].key;
        if (strcmp(key, "choice") != 0 && strcmp(key, "kwargs") != 0) {
            core::FixedText message;
            message.add("unknown key ").quote(utf8_slice(key).view());
            return refuse(error, "retry_countdown_config", pstrdup(message.view().data()));
        }
    }
    const JsonMember *choice = json_find(members, "choice");
    if (choice == nullptr)
        return refuse(error, "retry_countdown_config", "has no \"choice\"");
    if (choice->value.type != jbvString)
        return refuse(error, "retry_countdown_config.choice",
                      psprintf("is %s, not a string", json_kind(choice->value)));
    input->choice = utf8_slice(json_string(choice->value));
    const JsonMember *kwargs = json_find(members, "kwargs");
    if (kwargs == nullptr)
        return true; // make_countdown says which is missing
    if (!json_is_object(kwargs->value))
        return refuse(error, "retry_countdown_config.kwargs",
                      psprintf("is %s, not an object", json_kind(kwargs->value)));
    read_kwargs(kwargs, input);
    return true;
}

} // namespace

bool countdown_from_jsonb(Jsonb *config, core::Countdown *countdown, core::FieldError *error) {
    if (config == nullptr) {
        *countdown = core::default_countdown();
        return true;
    }
    core::CountdownInput input = {{"", 0}, nullptr, 0};
    return read_config(config, &input, error) && core::make_countdown(input, countdown, error);
}

bool countdown_is_custom(Jsonb *config, CustomChoice *custom) {
    core::CountdownInput input = {{"", 0}, nullptr, 0};
    core::FieldError error;
    if (config == nullptr || !read_config(config, &input, &error) || core::is_builtin_choice(input.choice))
        return false;
    JsonMembers members = json_members(&config->root);
    const JsonMember *kwargs = json_find(members, "kwargs");
    custom->choice = json_string(json_find(members, "choice")->value);
    custom->kwargs = kwargs != nullptr ? json_document(kwargs->value)
                                       : DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
    return true;
}

core::Random process_random() {
    return {uniform, nullptr};
}

} // namespace whisperer::pg

using namespace whisperer;
using namespace whisperer::pg;

// whisperer.countdown_preview(retry_countdown_config, retries)
WHISPERER_SQL_FUNCTION(whisperer_countdown_preview) {
    Oid caller = GetUserId();
    access_check(caller, Access::deliver, nullptr);
    if (PG_ARGISNULL(1))
        raise_null_argument("retries", "Give how many retries to show, 1 to 1000.");
    int retries = PG_GETARG_INT32(1);
    if (retries < 1 || retries > max_preview)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("retries: %d is not between 1 and %d", retries, max_preview),
                errhint("Give how many retries to show."));
    core::Countdown countdown;
    core::FieldError error;
    Jsonb *config = PG_ARGISNULL(0) ? nullptr : PG_GETARG_JSONB_P(0);
    CustomChoice choice;
    CustomCountdown custom = {};
    if (!countdown_from_jsonb(config, &countdown, &error)) {
        if (!countdown_is_custom(config, &choice))
            raise_field_error(error);
        // As the caller, as whose subscription it would run.
        config = custom_countdown_accept(config, caller);
        (void)countdown_is_custom(config, &choice);
        if (!custom_countdown_find(choice.choice, false, &custom))
            raise_field_error(error);
    }

    InitMaterializedSRF(fcinfo, 0);
    ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
    core::Random random = process_random();
    double cumulative = 0;
    for (int attempts = 1; attempts <= retries; attempts++) {
        double seconds = custom.countdown == nullptr
                             ? core::countdown_seconds(countdown, attempts, random)
                             : custom_countdown_seconds(custom.countdown, caller, attempts, choice.kwargs);
        cumulative += seconds;
        Datum values[] = {Int32GetDatum(attempts), Float8GetDatum(seconds), Float8GetDatum(cumulative)};
        bool nulls[] = {false, false, false};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    return (Datum)0;
}
