#include "core/verdict.hpp"

#include "core/countdown.hpp"
#include "core/retry_after.hpp"

#include <algorithm>

namespace whisperer::core {

Verdict judge_attempt(const Attempt &attempt) noexcept {
    // A response cut short says nothing reliable, so neither success nor 410 is believed without its end.
    bool whole = attempt.failure == Failure::none;
    if (whole && attempt.status >= 200 && attempt.status <= 299)
        return {Outcome::delivered, 0, 0};
    if (whole && attempt.status == 410)
        return {Outcome::gone, 0, 0};

    // A request to slow down is heeded as soon as its headers are in: at worst it costs a day.
    bool may_ask_to_wait = attempt.status == 429 || attempt.status == 503;
    double pause = 0;
    if (may_ask_to_wait && attempt.retry_after > 0)
        pause = std::min(attempt.retry_after, max_retry_after_seconds);

    if (attempt.attempts >= attempt.max_attempts)
        return {Outcome::failed, 0, pause};

    // NaN, which no built-in countdown gives, compares false and waits not at all.
    double wait =
        attempt.countdown_seconds > 0 ? std::min(attempt.countdown_seconds, max_countdown_seconds) : 0;
    return {Outcome::retry, std::max(wait, pause), pause};
}

} // namespace whisperer::core
