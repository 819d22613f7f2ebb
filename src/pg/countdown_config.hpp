// retry_countdown_config: from jsonb to the core's countdowns.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

// Makes a countdown of {"choice": …, "kwargs": {…}}; null makes the default one. A schedule's array is
// palloc'ed in the current memory context and has to live as long as the countdown. False: refused, and
// *error (may be null) says why. Custom countdowns are not known to it. Raises only when memory runs out, or
// for text that is no text.
bool countdown_from_jsonb(Jsonb *config, core::Countdown *countdown, core::FieldError *error);

// PostgreSQL's own generator, for jitter and random.
core::Random process_random();

} // namespace whisperer::pg
