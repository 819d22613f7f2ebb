// What became of an attempt, and what it teaches of its receiver.
#include "core/outbox_impl.hpp"

#include "core/retry_after.hpp"

#include <algorithm>
#include <string_view>

namespace whisperer::core {

namespace {

// Requests in flight without any progress for this long: the receiver hangs.
constexpr Micros stall_limit = 1000 * 1000;
constexpr Micros stall_check_interval = 250 * 1000;
// Bytes of a response's headers that are kept for a callback.
constexpr size_t callback_headers_limit = 16 * 1024;

// The first of these lines, as many as fit: no half header, also where one is folded over several lines.
std::string_view kept_headers(std::string_view lines) noexcept {
    if (lines.size() <= callback_headers_limit)
        return lines;
    size_t end = lines.rfind("\r\n", callback_headers_limit);
    while (end != std::string_view::npos && end > 0 && (lines[end + 2] == ' ' || lines[end + 2] == '\t'))
        end = lines.rfind("\r\n", end - 1);
    return lines.substr(0, end == std::string_view::npos ? 0 : end);
}

} // namespace

void Outbox::Impl::leave_flight(Item *item, Micros now) noexcept {
    Subscription *subscription = item->subscription;
    if (subscription == nullptr)
        return;
    subscription->last_progress = now;
    in_flight_by[static_cast<size_t>(subscription->effective())]--;
    if (--subscription->in_flight == 0)
        subscription->in_flying.leave(&flying);
    subscription->owner->in_flight--;
}

// The attempt has ended so.
void Outbox::Impl::conclude(Item *item, const HttpResult &http, Micros now, WallMicros wall) {
    Subscription *subscription = item->subscription;
    Attempt attempt{};
    attempt.failure = http.failure;
    attempt.status = http.status;
    attempt.attempts = item->attempts + (item->asks_token ? 1 : 0); // there was no more to this attempt
    attempt.retry_after =
        parse_retry_after(http.retry_after, wall / static_cast<WallMicros>(micros_per_second));
    const Countdown &countdown = subscription == nullptr ? default_countdown() : subscription->countdown;
    attempt.max_attempts = subscription == nullptr ? attempt.attempts : subscription->max_attempts;
    attempt.countdown_seconds = countdown_seconds(countdown, attempt.attempts, random);
    Verdict verdict = judge_attempt(attempt);

    std::string error(http.error.view());
    if (error.empty() && verdict.outcome != Outcome::delivered)
        error = "the receiver answered with status " + std::to_string(http.status);
    std::string response(http.body.view());
    std::string headers;
    if (item->has_callback)
        headers.assign(kept_headers(http.headers.view()));
    add_result(item); // what may throw is before it, since all is done again then; what follows does not
    item->attempts = attempt.attempts;
    item->asks_token = false;
    drop_payload(item);
    item->outcome = verdict.outcome;
    item->status = http.status;
    item->error = std::move(error);
    item->response = std::move(response);
    item->headers = std::move(headers);
    item->response_truncated = http.body_truncated;
    item->elapsed = http.elapsed;
    item->due = wall + static_cast<WallMicros>(verdict.wait_seconds * micros_per_second);
    leave_flight(item, now);
    if (subscription == nullptr)
        return;
    // A token that is refused is not used again. One that was fetched meanwhile is another.
    if (http.status == 401 && item->token_serial == subscription->token.serial)
        subscription->token.authorization.clear();
    learn(subscription, *item, http, verdict.pause_seconds, now, wall);
}

void Outbox::Impl::take_result(const HttpResult &http, Micros now, WallMicros wall) {
    Item *item = reinterpret_cast<Item *>(static_cast<uintptr_t>(http.tag));
    if (item->asks_token)
        take_token(item, http, now, wall);
    else
        conclude(item, http, now, wall);
}

void Outbox::Impl::find_stalled(Micros now) noexcept {
    if (now - last_stall_check < stall_check_interval)
        return;
    last_stall_check = now;
    for (Subscription *subscription : flying)
        if (subscription->in_flight > 0 && now - subscription->last_progress > stall_limit)
            set_standing(subscription, subscription->standing, true);
}

void Outbox::Impl::learn(Subscription *subscription, const Item &item, const HttpResult &http, double pause,
                         Micros now, WallMicros wall) noexcept {
    subscription->last_progress = now;
    bool delivered = item.outcome == Outcome::delivered;
    int limit = most_in_flight(*subscription);
    bool changed =
        http.status != subscription->last_status || !delivered || subscription->consecutive_failures > 0;
    if (delivered) {
        subscription->window = std::min(limit, subscription->window * 2);
        subscription->consecutive_failures = 0;
        subscription->last_error.clear();
    } else {
        subscription->window = std::max(1, subscription->window / 2);
        subscription->consecutive_failures++;
        note_error(subscription, slice(item.error));
    }
    subscription->last_status = http.status;
    if (pause > 0)
        subscription->paused_until =
            std::max(subscription->paused_until, wall + static_cast<WallMicros>(pause * micros_per_second));
    if (item.outcome == Outcome::gone)
        deactivate(subscription);
    Standing failed = item.elapsed > stall_limit ? Standing::hanging : Standing::failing;
    set_standing(subscription, delivered ? Standing::good : failed, false);
    if (changed)
        note_state(subscription, pause > 0 || item.outcome == Outcome::gone);
    arm(subscription, wall);
    make_ready(subscription);
    make_hungry(subscription);
}

} // namespace whisperer::core
