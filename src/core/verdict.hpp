// What becomes of a delivery after an attempt: a pure function.
#pragma once

#include "core/http_engine.hpp"
#include "core/no_postgres.hpp"

#include <cstdint>

namespace whisperer::core {

// An attempt that was made.
struct Attempt {
    Failure failure;
    int status;               // 0: no response
    int attempts;             // made for this delivery, with this one
    int max_attempts;         // the last one that may be made
    double countdown_seconds; // what the countdown says for `attempts`
    int retry_after;          // parse_retry_after() of the response; -1: none
};

enum class Outcome : uint8_t {
    delivered,
    retry,  // after wait_seconds
    failed, // no attempt is left
    gone    // 410: failed, and the subscription is to be deactivated
};

struct Verdict {
    Outcome outcome;
    double wait_seconds;  // retry: until the next attempt; otherwise 0
    double pause_seconds; // > 0: nothing is to be sent to the subscription before that (429 and 503 with
                          // Retry-After), also when this delivery failed for good
};

Verdict judge_attempt(const Attempt &attempt) noexcept;

} // namespace whisperer::core
