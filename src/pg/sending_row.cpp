#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/compat.hpp"
#include "pg/config_fields.hpp"
#include "pg/countdown_config.hpp"
#include "pg/internal_sql.hpp"
#include "pg/roster.hpp"
#include "pg/sending_row.hpp"
#include "pg/settings.hpp"
#include "pg/transcode.hpp"
#include "pg/wall_clock.hpp"

extern "C" {
#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

JsonbValue *key_of(Jsonb *object, const char *key) {
    return getKeyJsonValueFromContainer(&object->root, key, (int)strlen(key), nullptr);
}

char *string_of(const JsonbValue *value) {
    return pnstrdup(value->val.string.val, value->val.string.len);
}

int integer_key(Jsonb *config, const char *key, int otherwise) {
    JsonbValue *value = key_of(config, key);
    if (value == nullptr || value->type != jbvNumeric)
        return otherwise;
    return DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(value->val.numeric)));
}

// Additional headers as lines "Name: value".
core::Slice *header_lines(Jsonb *headers, size_t *count) {
    core::Slice *lines = (core::Slice *)palloc(sizeof(core::Slice) * (JB_ROOT_COUNT(headers) + 1));
    *count = 0;
    JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
    JsonbValue value;
    char *name = nullptr;
    for (JsonbIteratorToken token; (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE;) {
        if (token == WJB_KEY)
            name = string_of(&value);
        else if (token == WJB_VALUE && value.type == jbvString) {
            char *line = psprintf("%s: %s", name, string_of(&value));
            lines[(*count)++] = to_utf8(line, (int)strlen(line));
        }
    }
    return lines;
}

core::Slice auth_text(Jsonb *auth, const char *key, const char *otherwise) {
    JsonbValue *value = key_of(auth, key);
    const char *text = value == nullptr || value->type != jbvString ? otherwise : string_of(value);
    return to_utf8(text, (int)strlen(text));
}

// Where tokens come from, for the auth_type token.
core::TokenFields token_of(Jsonb *auth) {
    core::TokenFields fields = {};
    core::Slice type = auth_text(auth, "auth_type", "");
    if (type.view() != "token")
        return fields;
    fields.url = auth_text(auth, "url", "");
    fields.username_field = auth_text(auth, "username_field", "username");
    fields.username = auth_text(auth, "username", "");
    fields.password_field = auth_text(auth, "password_field", "password");
    fields.password = auth_text(auth, "password", "");
    fields.token_key = auth_text(auth, "token_key", "key");
    fields.header_format = auth_text(auth, "header_format", "Token {}");
    return fields;
}

// The Authorization header's value that config.auth stands for.
core::Slice authorization_of(Jsonb *auth) {
    JsonbValue *type = key_of(auth, "auth_type");
    const char *kind = type != nullptr && type->type == jbvString ? string_of(type) : "";
    if (strcmp(kind, "bearer") == 0) {
        char *text = psprintf("Bearer %s", string_of(key_of(auth, "token")));
        return to_utf8(text, (int)strlen(text));
    }
    if (strcmp(kind, "basic") == 0) {
        char *pair =
            psprintf("%s:%s", string_of(key_of(auth, "username")), string_of(key_of(auth, "password")));
        core::Slice bytes = to_utf8(pair, (int)strlen(pair));
        int room = pg_b64_enc_len((int)bytes.len);
        char *text = (char *)palloc((size_t)room + sizeof("Basic "));
        memcpy(text, "Basic ", 6);
        int written = compat_base64_encode(bytes.data, (int)bytes.len, text + 6, room);
        return core::Slice{text, 6 + (size_t)written};
    }
    return core::Slice{nullptr, 0};
}

bool owner_is_there(uint64 row) {
    bool is_null;
    if (DatumGetBool(spi_value(row, SENDING_OWNER_DROPPED, &is_null)))
        return false;
    char *name = TextDatumGetCString(spi_value(row, SENDING_OWNER_NAME, &is_null));
    return OidIsValid(owner_role(DatumGetObjectId(spi_value(row, SENDING_OWNER_OID, &is_null)), name,
                                 DatumGetInt64(spi_value(row, SENDING_OWNER_SYSTEM, &is_null))));
}

void set_config(core::SubscriptionFields *fields, Jsonb *config) {
    RequestTimeout timeout = setting_request_timeout();
    config_request_timeout(config, &timeout);
    fields->connect_timeout = (core::Micros)(timeout.connect_seconds * 1e6);
    fields->response_timeout = (core::Micros)(timeout.response_seconds * 1e6);
    fields->max_attempts = integer_key(config, "max_attempts", setting_max_attempts);
    fields->max_in_flight = integer_key(config, "max_in_flight", 0);
}

} // namespace

int64 sending_subscription(uint64 row) {
    bool is_null;
    return DatumGetInt64(spi_value(row, SENDING_ID, &is_null));
}

bool sending_ended(uint64 row) {
    bool is_null;
    return DatumGetBool(spi_value(row, SENDING_ENDED, &is_null));
}

bool sending_incomplete(uint64 row) {
    bool is_null;
    return DatumGetBool(spi_value(row, SENDING_INCOMPLETE, &is_null));
}

core::SubscriptionFields sending_fields(uint64 row) {
    bool is_null;
    core::SubscriptionFields fields = {};
    fields.id = sending_subscription(row);
    fields.owner = DatumGetObjectId(spi_value(row, SENDING_OWNER_OID, &is_null));
    fields.bucket = (int)subscription_bit(fields.id);
    fields.url = datum_to_utf8(spi_value(row, SENDING_URL, &is_null));
    fields.header_lines =
        header_lines(DatumGetJsonbP(spi_value(row, SENDING_HEADERS, &is_null)), &fields.header_count);
    set_config(&fields, DatumGetJsonbP(spi_value(row, SENDING_CONFIG, &is_null)));
    Datum secret = spi_value(row, SENDING_SECRET, &is_null);
    fields.has_secret = !is_null;
    if (!is_null)
        fields.secret = datum_to_utf8(secret);
    Datum auth = spi_value(row, SENDING_AUTH, &is_null);
    if (!is_null) {
        fields.authorization = authorization_of(DatumGetJsonbP(auth));
        fields.token = token_of(DatumGetJsonbP(auth));
    }
    Datum countdown = spi_value(row, SENDING_COUNTDOWN, &is_null);
    Jsonb *config = is_null ? nullptr : DatumGetJsonbP(countdown);
    if (!countdown_from_jsonb(config, &fields.countdown, nullptr)) {
        fields.countdown = core::default_countdown();
        CustomChoice custom;
        fields.custom_countdown = countdown_is_custom(config, &custom);
    }
    fields.has_callback = DatumGetBool(spi_value(row, SENDING_HAS_CALLBACK, &is_null));
    fields.sendable = DatumGetBool(spi_value(row, SENDING_ACTIVE, &is_null)) && owner_is_there(row) &&
                      !sending_incomplete(row);
    return fields;
}

bool sending_state(uint64 row, core::ReceiverState *state) {
    bool is_null;
    Datum failures = spi_value(row, SENDING_FAILURES, &is_null);
    if (is_null)
        return false;
    *state = core::ReceiverState{sending_subscription(row), DatumGetInt32(failures), 0, 0,
                                 core::Slice{nullptr, 0}};
    Datum paused = spi_value(row, SENDING_PAUSED, &is_null);
    state->paused_until = is_null ? 0 : to_wall(DatumGetTimestampTz(paused));
    Datum status = spi_value(row, SENDING_STATUS, &is_null);
    state->last_status = is_null ? 0 : DatumGetInt32(status);
    Datum error = spi_value(row, SENDING_ERROR, &is_null);
    if (!is_null)
        state->last_error = datum_to_utf8(error);
    return true;
}

} // namespace whisperer::pg
