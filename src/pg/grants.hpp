// The table of who was granted what. All of these run inside internal_begin()/internal_end(), or in a
// worker's transaction.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Grants that came from another cluster: to the roles that have the names here; where there is none, they are
// gone.
void grants_adopt(int64 system);

// New names of roles; grants to roles that were dropped go.
void grants_refresh(int64 system);

// Gives every role with grants the privileges that they need, and no others in the schema.
void grants_renew();

// The event type is no more: neither are grants for it. A type that gets its name later has none.
void grants_forget_event_type(const char *event_type);

} // namespace whisperer::pg
