#include "pg/prelude.hpp"

#include "pg/config_fields.hpp"
#include "pg/countdown_config.hpp"
#include "pg/errors.hpp"
#include "pg/jsonb_input.hpp"
#include "pg/subscription_fields.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace whisperer::pg {

namespace {

constexpr int longest_event_type = 124; // characters: with a whole URL it still fits into a row of an index

[[noreturn]] void refuse(const char *field, const char *fact, const char *hint) {
    core::FieldError error;
    core::set_field_error(&error, field, utf8_slice(fact).view(), hint);
    raise_field_error(error);
}

enum class Kind { text, object, flag };

struct Field {
    const char *key;
    SubscriptionField bit;
    Kind kind;
    bool removable; // null removes it
};

const Field fields[] = {
    {"event_type", FIELD_EVENT_TYPE, Kind::text, false},
    {"target_url", FIELD_TARGET_URL, Kind::text, false},
    {"secret_key", FIELD_SECRET_KEY, Kind::text, true},
    {"callback", FIELD_CALLBACK, Kind::text, true},
    {"retry_countdown_config", FIELD_RETRY_COUNTDOWN_CONFIG, Kind::object, true},
    {"additional_headers", FIELD_ADDITIONAL_HEADERS, Kind::object, false},
    {"config", FIELD_CONFIG, Kind::object, false},
    {"is_active", FIELD_IS_ACTIVE, Kind::flag, false},
};

const Field *find_field(const char *key, bool is_change) {
    for (const Field &field : fields)
        if (strcmp(field.key, key) == 0 && (is_change || field.bit != FIELD_IS_ACTIVE))
            return &field;
    return nullptr;
}

[[noreturn]] void raise_unknown_key(const char *what, const char *key, bool is_change) {
    core::FixedText message;
    message.add("unknown key ").quote(utf8_slice(key).view());
    core::FixedText hint;
    hint.add("Keys are event_type, target_url, secret_key, callback, retry_countdown_config, "
             "additional_headers, config")
        .add(is_change ? ", is_active." : ".");
    core::FieldError error;
    core::set_field_error(&error, what, message.view(), hint.view());
    raise_field_error(error);
}

void check_kind(const Field &field, const JsonbValue &value) {
    static const char *const wanted[] = {"a string", "an object", "true or false"};
    bool right = field.kind == Kind::text     ? value.type == jbvString
                 : field.kind == Kind::object ? json_is_object(value)
                                              : value.type == jbvBool;
    if (right)
        return;
    const char *kind = wanted[static_cast<int>(field.kind)];
    refuse(field.key, psprintf("is %s, not %s", json_kind(value), kind),
           psprintf("Give %s%s.", kind, field.removable ? ", or null for none" : ""));
}

void take(const Field &field, const JsonbValue &value, SubscriptionInput *input) {
    input->given |= field.bit;
    if (field.removable && value.type == jbvNull)
        return;
    check_kind(field, value);
    switch (field.bit) {
    case FIELD_EVENT_TYPE:
        input->event_type = json_string(value);
        break;
    case FIELD_TARGET_URL:
        input->target_url = json_string(value);
        break;
    case FIELD_SECRET_KEY:
        input->secret_key = json_string(value);
        break;
    case FIELD_CALLBACK:
        input->callback = json_string(value);
        break;
    case FIELD_RETRY_COUNTDOWN_CONFIG:
        input->retry_countdown_config = json_document(value);
        break;
    case FIELD_ADDITIONAL_HEADERS:
        input->additional_headers = json_document(value);
        break;
    case FIELD_CONFIG:
        input->config = json_document(value);
        break;
    case FIELD_IS_ACTIVE:
        input->is_active = value.val.boolean;
        break;
    case FIELD_AUTH:
        break;
    }
}

void check_headers(Jsonb *headers) {
    constexpr const char *hint = "Give an object of strings, such as {\"X-Region\": \"eu\"}.";
    if (!json_is_object(headers))
        refuse("additional_headers", psprintf("is %s, not an object", json_kind(headers)), hint);
    JsonMembers members = json_members(&headers->root);
    core::Header *list = (core::Header *)palloc(sizeof(core::Header) * (size_t)(members.count + 1));
    for (int i = 0; i < members.count; i++) {
        const JsonMember &member = members.items[i];
        core::Slice name = utf8_slice(member.key, "additional_headers");
        if (member.value.type != jbvString) {
            core::FixedText message;
            message.add("the value of ")
                .quote(name.view())
                .add(" is ")
                .add(json_kind(member.value))
                .add(", not a string");
            core::FieldError error;
            core::set_field_error(&error, "additional_headers", message.view(), hint);
            raise_field_error(error);
        }
        list[i] = {name, utf8_slice(json_string(member.value), "additional_headers")};
    }
    core::FieldError error;
    if (!core::check_headers(list, (size_t)members.count, &error))
        raise_field_error(error);
}

void split_config(SubscriptionInput *input) {
    check_config(input->config);
    bool given;
    input->auth = config_auth(input->config, &given, &input->auth_type);
    if (given)
        input->given |= FIELD_AUTH;
    input->config = config_without_auth(input->config);
}

} // namespace

SubscriptionInput subscription_input_from_json(Jsonb *object, const char *what, bool is_change) {
    SubscriptionInput input = {};
    if (!json_is_object(object))
        refuse(what, psprintf("is %s, not an object", json_kind(object)),
               "Give an object, such as {\"event_type\": \"package-created\", \"target_url\": "
               "\"https://example.com/\"}.");
    JsonMembers members = json_members(&object->root);
    for (int i = 0; i < members.count; i++) {
        const Field *field = find_field(members.items[i].key, is_change);
        if (field == nullptr)
            raise_unknown_key(what, members.items[i].key, is_change);
        take(*field, members.items[i].value, &input);
    }
    return input;
}

void require_subscription_keys(const SubscriptionInput &input, const char *what) {
    for (const Field &field : fields)
        if ((field.bit == FIELD_EVENT_TYPE || field.bit == FIELD_TARGET_URL) &&
            (input.given & field.bit) == 0)
            refuse(what, psprintf("has no \"%s\"", field.key),
                   "Every subscription needs event_type and target_url.");
}

void check_subscription_input(SubscriptionInput *input) {
    core::FieldError error;
    if (input->event_type != nullptr)
        check_event_type_name(input->event_type);
    if (input->target_url != nullptr && !core::check_url(utf8_slice(input->target_url, "target_url"), &error))
        raise_field_error(error);
    if (input->secret_key != nullptr &&
        !core::check_secret(utf8_slice(input->secret_key, "secret_key"), &error))
        raise_field_error(error);
    if (input->retry_countdown_config != nullptr) {
        core::Countdown countdown;
        CustomChoice custom; // is looked up by custom_countdown_accept()
        if (!countdown_from_jsonb(input->retry_countdown_config, &countdown, &error) &&
            !countdown_is_custom(input->retry_countdown_config, &custom))
            raise_field_error(error);
    }
    if (input->additional_headers != nullptr)
        check_headers(input->additional_headers);
    if (input->config != nullptr)
        split_config(input);
}

void check_config_filter(Jsonb *filter) {
    constexpr const char *hint =
        "Give an object of the subscription's own config keys, such as {\"region\": \"eu\"}.";
    if (!json_is_object(filter))
        refuse("config_filter", psprintf("is %s, not an object", json_kind(filter)), hint);
    JsonMembers members = json_members(&filter->root);
    for (int i = 0; i < members.count; i++)
        if (is_reserved_config_key(members.items[i].key))
            refuse("config_filter",
                   psprintf("\"%s\" is a key of whisperer's own, which nobody can filter by",
                            members.items[i].key),
                   hint);
}

void check_event_type_name(const char *event_type) {
    constexpr const char *hint = "Names have 1 to 124 characters, none of them a control character.";
    core::Slice utf8 = utf8_slice(event_type, "event_type");
    int characters = pg_mbstrlen(event_type);
    if (characters == 0)
        refuse("event_type", "is empty", hint);
    if (characters > longest_event_type)
        refuse("event_type", psprintf("has %d characters", characters), hint);
    if (core::has_control_character(utf8.view())) {
        core::FixedText message;
        message.quote(utf8.view(), 130).add(" has a control character");
        core::FieldError error;
        core::set_field_error(&error, "event_type", message.view(), hint);
        raise_field_error(error);
    }
}

} // namespace whisperer::pg
