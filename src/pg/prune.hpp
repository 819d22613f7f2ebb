// Removing settled deliveries that are old, with the payloads that went with them: whisperer.prune() and
// retention.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "datatype/timestamp.h"
}

namespace whisperer::pg {

// Removes at most `max_rows` deliveries settled before that time, the oldest first, passing over those that
// another transaction has locked, and every event payload whose last delivery went with them. Returns how
// many deliveries. No privilege is checked. Does its own internal_begin() and internal_end().
//
// One transaction prunes at a time, or two of them could each leave an event's payload to the other. `wait`:
// for the other one to end; else 0 is returned at once, which means that there is nothing to do here now.
int64 prune_batch(TimestampTz settled_before, int64 max_rows, bool wait = false);

} // namespace whisperer::pg
