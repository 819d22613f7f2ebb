// deliver_event(…, event_uuid => …): a recorded delivery is sent again.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace whisperer::pg {

// For a caller whose right to call deliver_event() was checked: pending, failed or cancelled, the delivery is
// due when this transaction commits, or, with `now`, gets its attempt before this returns. WH003 unknown or
// not the caller's, 22023 of another type, WH005 delivered, 55000 as retry(), WH008 being sent by somebody
// else.
void resend_delivery(Oid caller, const pg_uuid_t *uuid, const char *event_type, bool now);

} // namespace whisperer::pg
