#include "pg/prelude.hpp"

#include "pg/view_functions.hpp"

extern "C" {
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
}

namespace whisperer::pg {

Datum request_body(const char *event_type, const pg_uuid_t *uuid, const char *body, const char *payload) {
    if (body != nullptr)
        return DirectFunctionCall1(jsonb_in, CStringGetDatum(body));
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfoString(&text, "{\"event\": {\"type\": ");
    escape_json(&text, event_type);
    appendStringInfoString(&text, ", \"uuid\": \"");
    for (int i = 0; i < UUID_LEN; i++)
        appendStringInfo(&text, "%02x", uuid->data[i]);
    appendStringInfoString(&text, "\"}, \"payload\": ");
    appendStringInfoString(&text, payload);
    appendStringInfoChar(&text, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

} // namespace whisperer::pg
