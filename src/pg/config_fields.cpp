#include "pg/prelude.hpp"

#include "pg/config_fields.hpp"
#include "pg/errors.hpp"
#include "pg/jsonb_input.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
}

namespace whisperer::pg {

namespace {

constexpr size_t longest_auth_value = 8192; // bytes, as of a token that is asked for
constexpr int largest_config = 1024 * 1024;
constexpr int most_attempts = 1000;
constexpr int most_in_flight = 4096; // as the setting whisperer.max_in_flight

[[noreturn]] void refuse(const char *field, const char *fact, const char *hint) {
    core::FieldError error;
    core::set_field_error(&error, utf8_slice(field).view(), utf8_slice(fact).view(), hint);
    raise_field_error(error);
}

// ---- auth: what must be there, what may, and what the strings may hold

enum class Text {
    any,       // no control characters
    user_name, // of basic: also no colon, which ends it on the wire (RFC 7617)
    token,     // visible ASCII, not empty (RFC 6750)
    url,
    name,          // of a form field or JSON key: not empty
    header_format, // visible ASCII and spaces, with {} once
};

struct AuthKey {
    const char *name;
    bool required;
    Text text;
};

struct AuthType {
    const char *name;
    const char *hint;
    AuthKey keys[8];
};

const AuthType auth_types[] = {
    {"basic",
     "Give {\"auth_type\": \"basic\", \"username\": ..., \"password\": ...}.",
     {{"username", true, Text::user_name}, {"password", true, Text::any}}},
    {"bearer", "Give {\"auth_type\": \"bearer\", \"token\": ...}.", {{"token", true, Text::token}}},
    {"token",
     "Give {\"auth_type\": \"token\", \"url\": ..., \"username\": ..., \"password\": ...}, and if wanted "
     "username_field, "
     "password_field, token_key, header_format.",
     {{"url", true, Text::url},
      {"username", true, Text::any},
      {"password", true, Text::any},
      {"username_field", false, Text::name},
      {"password_field", false, Text::name},
      {"token_key", false, Text::name},
      {"header_format", false, Text::header_format}}},
};
constexpr const char *auth_hint =
    "Give an object with \"auth_type\" basic, bearer or token and what that needs.";

const AuthType *find_auth_type(const char *name) {
    for (const AuthType &type : auth_types)
        if (strcmp(type.name, name) == 0)
            return &type;
    return nullptr;
}

const AuthKey *find_auth_key(const AuthType &type, const char *name) {
    for (const AuthKey &key : type.keys)
        if (key.name != nullptr && strcmp(key.name, name) == 0)
            return &key;
    return nullptr;
}

bool all_visible_ascii(const char *text, bool spaces) {
    for (; *text != '\0'; text++)
        if (!((*text > ' ' && *text <= '~') || (spaces && *text == ' ')))
            return false;
    return true;
}

bool occurs_once(const char *text, const char *part) {
    const char *first = strstr(text, part);
    return first != nullptr && strstr(first + strlen(part), part) == nullptr;
}

// Null, or what is wrong with it, without showing it.
const char *text_fault(Text kind, const char *text) {
    switch (kind) {
    case Text::user_name:
        if (strchr(text, ':') != nullptr)
            return "has a colon, which basic authentication cannot send";
        break;
    case Text::token:
        return *text != '\0' && all_visible_ascii(text, false) ? nullptr : "is empty or not visible ASCII";
    case Text::name:
        if (*text == '\0')
            return "is empty";
        break;
    case Text::header_format:
        if (!all_visible_ascii(text, true) || !occurs_once(text, "{}"))
            return "is not visible ASCII with {} once, where the token goes";
        return nullptr;
    case Text::any:
    case Text::url:
        break;
    }
    return core::has_control_character(utf8_slice(text).view()) ? "has a control character" : nullptr;
}

void check_auth_member(const AuthType &type, const JsonMember &member) {
    const char *field = psprintf("config.auth.%s", member.key);
    const AuthKey *key = find_auth_key(type, member.key);
    if (key == nullptr)
        refuse("config.auth", psprintf("unknown key \"%s\" for the auth_type \"%s\"", member.key, type.name),
               type.hint);
    if (member.value.type != jbvString)
        refuse(field, psprintf("is %s, not a string", json_kind(member.value)), type.hint);
    const char *text = json_string(member.value);
    core::Slice utf8 = utf8_slice(text, field);
    core::FieldError error;
    if (key->text == Text::url && !core::check_url(utf8, &error, "config.auth.url"))
        raise_field_error(error);
    if (utf8.len > longest_auth_value)
        refuse(field, "is longer than 8192 bytes", "No header takes more.");
    const char *fault = text_fault(key->text, text);
    if (fault != nullptr)
        refuse(field, fault, type.hint);
}

void check_auth(const JsonbValue &value) {
    if (value.type == jbvNull)
        return;
    if (!json_is_object(value))
        refuse("config.auth", psprintf("is %s, not an object", json_kind(value)), auth_hint);
    JsonMembers members = json_members(value.val.binary.data);
    const JsonMember *type_name = json_find(members, "auth_type");
    if (type_name == nullptr)
        refuse("config.auth", "has no \"auth_type\"", auth_hint);
    if (type_name->value.type != jbvString)
        refuse("config.auth.auth_type", psprintf("is %s, not a string", json_kind(type_name->value)),
               auth_hint);
    const AuthType *type = find_auth_type(json_string(type_name->value));
    if (type == nullptr) {
        core::FixedText fact;
        fact.add("unknown auth_type ").quote(utf8_slice(json_string(type_name->value)).view());
        core::FieldError error;
        core::set_field_error(&error, "config.auth.auth_type", fact.view(), auth_hint);
        raise_field_error(error);
    }
    for (int i = 0; i < members.count; i++)
        if (&members.items[i] != type_name)
            check_auth_member(*type, members.items[i]);
    for (const AuthKey &key : type->keys)
        if (key.name != nullptr && key.required && json_find(members, key.name) == nullptr)
            refuse("config.auth", psprintf("has no \"%s\"", key.name), type->hint);
}

// ---- the others

constexpr const char *timeout_hint =
    "Give seconds as one number for connection and response each, or two: [5, 10], or \"5,10\".";

// In the form the setting takes; null when it has another shape.
const char *timeout_text(const JsonbValue &value) {
    if (value.type == jbvString)
        return json_string(value);
    if (value.type == jbvNumeric)
        return numeric_normalize(value.val.numeric);
    if (!json_is_array(value))
        return nullptr;
    int count;
    JsonbValue *elements = json_elements(value.val.binary.data, &count);
    if (count != 2 || elements[0].type != jbvNumeric || elements[1].type != jbvNumeric)
        return nullptr;
    return psprintf("%s,%s", numeric_normalize(elements[0].val.numeric),
                    numeric_normalize(elements[1].val.numeric));
}

void check_timeout(const JsonbValue &value) {
    const char *text = timeout_text(value);
    RequestTimeout timeout;
    const char *message = nullptr;
    if (text != nullptr && parse_request_timeout(text, &timeout, &message))
        return;
    refuse("config.request_timeout", psprintf("%s is no time-out", json_excerpt(json_document(value))),
           message == nullptr ? timeout_hint : psprintf("%s %s", message, timeout_hint));
}

void check_integer(const JsonMember &member, int low, int high) {
    int number;
    if (json_integer(member.value, low, high, &number))
        return;
    refuse(
        psprintf("config.%s", member.key),
        psprintf("%s is not a whole number from %d to %d", json_excerpt(json_document(member.value)), low,
                 high),
        psprintf("Give a JSON number, or leave \"%s\" out for the setting whisperer.%s.", member.key,
                 strcmp(member.key, "max_in_flight") == 0 ? "max_in_flight_per_subscription" : member.key));
}

} // namespace

bool is_reserved_config_key(const char *key) {
    static const char *const reserved[] = {"auth", "request_timeout", "max_attempts", "max_in_flight"};
    for (const char *name : reserved)
        if (strcmp(name, key) == 0)
            return true;
    return false;
}

void check_config(Jsonb *config) {
    if (!json_is_object(config))
        refuse("config", psprintf("is %s, not an object", json_kind(config)), "Give an object, such as {}.");
    if (VARSIZE(config) > largest_config)
        refuse("config", "is larger than 1 MB",
               "Keep what it is for elsewhere, and here only what to filter by.");
    JsonMembers members = json_members(&config->root);
    for (int i = 0; i < members.count; i++) {
        const JsonMember &member = members.items[i];
        if (strcmp(member.key, "auth") == 0)
            check_auth(member.value);
        else if (strcmp(member.key, "request_timeout") == 0)
            check_timeout(member.value);
        else if (strcmp(member.key, "max_attempts") == 0)
            check_integer(member, 1, most_attempts);
        else if (strcmp(member.key, "max_in_flight") == 0)
            check_integer(member, 1, most_in_flight);
    }
}

Jsonb *config_auth(Jsonb *config, bool *given, char **auth_type) {
    const JsonMember *auth = json_find(json_members(&config->root), "auth");
    *given = auth != nullptr;
    *auth_type = nullptr;
    if (auth == nullptr || auth->value.type == jbvNull)
        return nullptr;
    *auth_type = json_string(json_find(json_members(auth->value.val.binary.data), "auth_type")->value);
    return json_document(auth->value);
}

void config_request_timeout(Jsonb *config, RequestTimeout *timeout) {
    const JsonMember *member = json_find(json_members(&config->root), "request_timeout");
    const char *text = member == nullptr ? nullptr : timeout_text(member->value);
    RequestTimeout parsed;
    const char *message = nullptr;
    if (text != nullptr && parse_request_timeout(text, &parsed, &message))
        *timeout = parsed;
}

Jsonb *config_without_auth(Jsonb *config) {
    return DatumGetJsonbP(
        DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(config), CStringGetTextDatum("auth")));
}

} // namespace whisperer::pg
