// Custom countdowns: whisperer.register_countdown(), unregister_countdown(), and what subscribing to one
// means.
#pragma once

#include "pg/countdown_config.hpp"
#include "pg/prelude.hpp"

namespace whisperer::pg {

struct CustomCountdown {
    const char *choice;
    const char *countdown; // function names as stored
    const char *validator; // null: none
};

// Is a custom countdown of that name registered? Runs its own internal SQL. With `hold` it stays until this
// transaction ends: unregister_countdown() waits. Texts are palloc'ed.
bool custom_countdown_find(const char *choice, bool hold, CustomCountdown *found);

// For a new value of retry_countdown_config that names a custom countdown (others are returned as they are):
// checks that `owner`, the subscription's, may execute its functions, and has the validator, run as that
// owner, accept the kwargs. Returns what is to be stored. 22023 when the choice is not registered or the
// validator returns no object; whatever the validator raises. Runs user code: not within
// internal_begin()/internal_end().
Jsonb *custom_countdown_accept(Jsonb *config, Oid owner);

// Seconds from the function, run as `owner`, clamped to what a countdown may be. 22023 when it returned NULL,
// NaN or a negative number; whatever it raises.
double custom_countdown_seconds(const char *function, Oid owner, int attempts, Jsonb *kwargs);

} // namespace whisperer::pg
