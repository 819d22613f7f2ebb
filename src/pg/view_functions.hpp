// What the views compute in C.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace whisperer::pg {

// The whole body of a delivery's requests, as jsonb: `body` where it is given, else the envelope around
// `payload`. The same as core::write_envelope() makes for the request, in the server's encoding.
Datum request_body(const char *event_type, const pg_uuid_t *uuid, const char *body, const char *payload);

} // namespace whisperer::pg
