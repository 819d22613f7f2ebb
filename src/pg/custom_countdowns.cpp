#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/custom_countdowns.hpp"
#include "pg/errors.hpp"
#include "pg/function_names.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/jsonb_input.hpp"
#include "pg/user_function.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
}

namespace whisperer::pg {

namespace {

constexpr int longest_choice = 124;

[[noreturn]] void refuse(const char *field, const char *fact, const char *hint) {
    core::FieldError error;
    core::set_field_error(&error, field, utf8_slice(fact).view(), hint);
    raise_field_error(error);
}

const char *choice_argument(FunctionCallInfo fcinfo) {
    constexpr const char *hint = "Give a name of 1 to 124 characters, none of them a control character.";
    if (PG_ARGISNULL(0))
        raise_null_argument("choice", hint);
    const char *choice = text_to_cstring(PG_GETARG_TEXT_PP(0));
    int characters = pg_mbstrlen(choice);
    if (characters == 0)
        refuse("choice", "is empty", hint);
    if (characters > longest_choice)
        refuse("choice", psprintf("has %d characters", characters), hint);
    if (core::has_control_character(utf8_slice(choice).view()))
        refuse("choice", "has a control character", hint);
    return choice;
}

const char *stored_function(FunctionUse use, FunctionCallInfo fcinfo, int argument, Oid caller) {
    if (PG_ARGISNULL(argument))
        return nullptr;
    Oid function = function_find(use, text_to_cstring(PG_GETARG_TEXT_PP(argument)));
    function_check_runner(use, function, caller);
    return function_stored_name(function);
}

[[noreturn]] void raise_taken(const char *choice, bool builtin) {
    ereport(ERROR, errcode(ERRCODE_WH_DUPLICATE_COUNTDOWN),
            errmsg("countdown \"%s\" is already registered", choice),
            builtin ? errdetail("It is one of whisperer's own: %s.", core::builtin_choices()) : 0,
            errhint("Choose another name%s.",
                    builtin ? "" : ", or remove it with whisperer.unregister_countdown()"));
}

[[noreturn]] void raise_not_registered(const char *choice) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("countdown \"%s\" is not registered", shortened(choice)),
            errhint("whisperer.countdowns lists those there are."));
}

void register_countdown(Oid caller, const CustomCountdown &countdown) {
    static Statement insert = {
        "INSERT INTO whisperer.custom_countdown (choice, countdown, validator, owner_oid, owner_name,"
        " owner_system) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (choice) DO NOTHING",
        6,
        {TEXTOID, TEXTOID, TEXTOID, OIDOID, TEXTOID, INT8OID},
        nullptr};
    InternalSql internal;
    internal_begin(&internal);
    home_stamp();
    Datum arguments[] = {CStringGetTextDatum(countdown.choice),
                         CStringGetTextDatum(countdown.countdown),
                         countdown.validator == nullptr ? (Datum)0 : CStringGetTextDatum(countdown.validator),
                         ObjectIdGetDatum(caller),
                         CStringGetTextDatum(GetUserNameFromId(caller, false)),
                         Int64GetDatum(home_system())};
    if (internal_execute(&insert, arguments, countdown.validator == nullptr ? "  n   " : nullptr) == 0)
        raise_taken(countdown.choice, false);
    internal_end(&internal);
}

// The row is locked: whoever wants to use the countdown waits for us or has committed, which only a snapshot
// of this moment is sure to see.
void check_unused(const char *choice) {
    static Statement users = {"SELECT pg_catalog.min(id), pg_catalog.count(*) FROM whisperer.subscription"
                              " WHERE ended_date IS NULL AND retry_countdown_config ->> 'choice' = $1",
                              1,
                              {TEXTOID},
                              nullptr};
    Datum arguments[] = {CStringGetTextDatum(choice)};
    Snapshot now = RegisterSnapshot(GetLatestSnapshot());
    internal_execute_snapshot(&users, arguments, nullptr, now);
    bool is_null;
    int64 first = DatumGetInt64(spi_value(0, 1, &is_null));
    int64 count = DatumGetInt64(spi_value(0, 2, &is_null));
    if (count > 0)
        ereport(ERROR, errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                errmsg("countdown \"%s\" is in use", choice),
                errdetail("Subscriptions that use it: " INT64_FORMAT ", among them number " INT64_FORMAT ".",
                          count, first),
                errhint("Give them another retry_countdown_config, or end them, first."));
    UnregisterSnapshot(now);
}

void unregister_countdown(const char *choice) {
    static Statement lock = {
        "SELECT 1 FROM whisperer.custom_countdown WHERE choice = $1 FOR UPDATE", 1, {TEXTOID}, nullptr};
    static Statement remove = {
        "DELETE FROM whisperer.custom_countdown WHERE choice = $1", 1, {TEXTOID}, nullptr};
    InternalSql internal;
    internal_begin(&internal);
    Datum arguments[] = {CStringGetTextDatum(choice)};
    if (internal_execute(&lock, arguments) == 0)
        raise_not_registered(choice);
    check_unused(choice);
    internal_execute(&remove, arguments);
    internal_end(&internal);
}

Jsonb *object_of(const char *choice, Jsonb *kwargs) {
    JsonbParseState *state = nullptr;
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    JsonbValue value;
    auto push = [&state, &value](JsonbIteratorToken token, const char *text) {
        value.type = jbvString;
        value.val.string.val = const_cast<char *>(text);
        value.val.string.len = (int)strlen(text);
        pushJsonbValue(&state, token, &value);
    };
    push(WJB_KEY, "choice");
    push(WJB_VALUE, choice);
    push(WJB_KEY, "kwargs");
    value.type = jbvBinary;
    value.val.binary.data = &kwargs->root;
    value.val.binary.len = (int)VARSIZE(kwargs) - (int)VARHDRSZ;
    pushJsonbValue(&state, WJB_VALUE, &value);
    return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr));
}

} // namespace

bool custom_countdown_find(const char *choice, bool hold, CustomCountdown *found) {
    static Statement find = {"SELECT countdown, validator FROM whisperer.custom_countdown WHERE choice = $1",
                             1,
                             {TEXTOID},
                             nullptr};
    static Statement find_and_hold = {
        "SELECT countdown, validator FROM whisperer.custom_countdown WHERE choice = $1 FOR KEY SHARE",
        1,
        {TEXTOID},
        nullptr};
    MemoryContext caller = CurrentMemoryContext;
    InternalSql internal;
    internal_begin(&internal);
    Datum arguments[] = {CStringGetTextDatum(choice)};
    bool any = internal_execute(hold ? &find_and_hold : &find, arguments) > 0;
    if (any) {
        bool is_null;
        found->choice = MemoryContextStrdup(caller, choice);
        found->countdown = MemoryContextStrdup(caller, TextDatumGetCString(spi_value(0, 1, &is_null)));
        Datum validator = spi_value(0, 2, &is_null);
        found->validator = is_null ? nullptr : MemoryContextStrdup(caller, TextDatumGetCString(validator));
    }
    internal_end(&internal);
    return any;
}

Jsonb *custom_countdown_accept(Jsonb *config, Oid owner) {
    CustomChoice wanted;
    if (!countdown_is_custom(config, &wanted))
        return config;
    CustomCountdown countdown;
    if (!custom_countdown_find(wanted.choice, true, &countdown)) {
        core::Countdown builtin;
        core::FieldError error;
        (void)countdown_from_jsonb(config, &builtin, &error); // says what there is
        raise_field_error(error);
    }
    user_function_check({"countdown", countdown.countdown, owner}, 2);
    if (countdown.validator == nullptr)
        return object_of(wanted.choice, wanted.kwargs);
    Jsonb *accepted = user_function_call_jsonb({"validator", countdown.validator, owner}, wanted.kwargs);
    if (accepted == nullptr || !json_is_object(accepted))
        refuse("retry_countdown_config.kwargs",
               psprintf("the validator %s returned %s, not an object", countdown.validator,
                        accepted == nullptr ? "NULL" : json_kind(accepted)),
               "A validator returns the kwargs that it accepts, or raises.");
    return object_of(wanted.choice, accepted);
}

double custom_countdown_seconds(const char *function, Oid owner, int attempts, Jsonb *kwargs) {
    double seconds;
    bool given = user_function_call_number({"countdown", function, owner}, attempts, kwargs, &seconds);
    if (!given || !(seconds >= 0)) // NaN compares false
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("countdown: function %s returned %s for %d attempts", function,
                       given ? psprintf("%g", seconds) : "NULL", attempts),
                errhint("It must return seconds, 0 or more."));
    return Min(seconds, core::max_countdown_seconds);
}

} // namespace whisperer::pg

using namespace whisperer;
using namespace whisperer::pg;

// whisperer.register_countdown(choice, countdown, validator)
WHISPERER_SQL_FUNCTION(whisperer_register_countdown) {
    Oid caller = GetUserId();
    const char *choice = choice_argument(fcinfo);
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.register_countdown()");
    if (PG_ARGISNULL(1))
        raise_null_argument("countdown",
                            "Give the name of a function (integer, jsonb) that returns seconds.");
    if (core::is_builtin_choice(utf8_slice(choice)))
        raise_taken(choice, true);
    CustomCountdown countdown = {choice, stored_function(FunctionUse::countdown, fcinfo, 1, caller),
                                 stored_function(FunctionUse::validator, fcinfo, 2, caller)};
    register_countdown(caller, countdown);
    PG_RETURN_VOID();
}

// whisperer.unregister_countdown(choice)
WHISPERER_SQL_FUNCTION(whisperer_unregister_countdown) {
    Oid caller = GetUserId();
    const char *choice = choice_argument(fcinfo);
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.unregister_countdown()");
    if (core::is_builtin_choice(utf8_slice(choice)))
        refuse("choice", psprintf("\"%s\" is a countdown of whisperer's own", choice),
               "Only custom countdowns can be removed; whisperer.countdowns lists them.");
    unregister_countdown(choice);
    PG_RETURN_VOID();
}
