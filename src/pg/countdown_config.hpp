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

// A choice that is no built-in one, and its kwargs as they are given ({} if they are not). palloc'ed.
struct CustomChoice {
    const char *choice;
    Jsonb *kwargs;
};

// Is it well formed, and a custom countdown's? Whether that one is registered is for custom_countdowns.hpp to
// say.
bool countdown_is_custom(Jsonb *config, CustomChoice *custom);

// PostgreSQL's own generator, for jitter and random.
core::Random process_random();

} // namespace whisperer::pg
