#include "pg/prelude.hpp"

#include "pg/view_functions.hpp"

extern "C" {
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"
}

namespace {

void append_uuid_digits(StringInfo to, const pg_uuid_t *uuid) {
    for (int i = 0; i < UUID_LEN; i++)
        appendStringInfo(to, "%02x", uuid->data[i]);
}

} // namespace

// The same as core::write_envelope() makes for the request, in the server's encoding.
WHISPERER_SQL_FUNCTION(whisperer_request_body) {
    if (!PG_ARGISNULL(2))
        return DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(PG_GETARG_TEXT_PP(2))));
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
        PG_RETURN_NULL();
    StringInfoData body;
    initStringInfo(&body);
    appendStringInfoString(&body, "{\"event\": {\"type\": ");
    escape_json(&body, text_to_cstring(PG_GETARG_TEXT_PP(0)));
    appendStringInfoString(&body, ", \"uuid\": \"");
    append_uuid_digits(&body, PG_GETARG_UUID_P(1));
    appendStringInfoString(&body, "\"}, \"payload\": ");
    appendStringInfoString(&body, text_to_cstring(PG_GETARG_TEXT_PP(3)));
    appendStringInfoChar(&body, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(body.data));
}
