// Who gets an event type. Asked for each event, so the answer is kept for the session.
#pragma once

#include "pg/event_functions.hpp"
#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

// Who gets an event type now, the active subscriptions visible to this statement, and what makes its payload
// and bodies. palloc'ed.
struct Recipients {
    int64 *subscriptions;
    int count;
    EventFunctions functions;
};

// Raises WH004 when the event type is not registered. `config_filter` may be null; else only subscriptions
// whose own config keys contain it. May run its own internal SQL.
Recipients find_recipients(const char *event_type, Jsonb *config_filter);

// Registers the callback by which changes are noticed. From _PG_init.
void recipients_init();

} // namespace whisperer::pg
