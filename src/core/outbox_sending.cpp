// Whose delivery is sent next.
#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

// Crashes with a delivery alone in flight after which it is given up (contract, section 6).
constexpr int crash_limit = 3;
// Suspects wait this long after the start, for the rest to be under way.
constexpr Micros suspect_delay = 1000 * 1000;
// After an attempt that could not even be made.
constexpr WallMicros unsent_pause = 1000 * 1000;
// What somebody else is sending is looked at again after this.
constexpr WallMicros claimed_again = 100 * 1000;
// What could not be started for want of memory is tried again after this.
constexpr int64_t short_of_memory_wait_ms = 100;

} // namespace

// `first`: it is its turn, whether it was in the line or not.
void Outbox::Impl::make_ready(Subscription *subscription, bool first) noexcept {
    size_t number = static_cast<size_t>(subscription->effective());
    if (subscription->queue.empty())
        return;
    if (first)
        subscription->in_ready[number].lead(&ready[number]);
    else
        subscription->in_ready[number].join(&ready[number]);
}

bool Outbox::Impl::may_send(const Subscription &subscription, WallMicros wall) const noexcept {
    return subscription.sendable && !subscription.queue.empty() &&
           subscription.in_flight < subscription.window && may_have_unrecorded(subscription) &&
           !subscription.is_paused(wall) && !subscription.token.asking;
}

// Whoever has thousands of a subscription's rows locked, by an open unsubscribe() for instance, stops that
// subscription only; and who has some of many locked, those. The more there are the fewer of one, so that
// memory is bounded by the number of subscriptions.
bool Outbox::Impl::may_have_unrecorded(const Subscription &subscription) const noexcept {
    size_t all = postponed.size() + tried_again;
    if (all >= unrecorded_limit)
        return subscription.postponed == 0 && subscription.in_flight == 0;
    return subscription.postponed < (all >= many_unrecorded ? 1 : unrecorded_of_one);
}

void Outbox::Impl::count_requests(int change) noexcept {
    requests += static_cast<size_t>(change);
    if (recorder.in_flight != nullptr)
        recorder.in_flight(recorder.context, requests);
}

// Sends a request on behalf of a delivery: for a token, or its own.
Launch Outbox::Impl::take_off(Item *item, HttpRequest *request, Micros now, WallMicros wall) noexcept {
    Subscription *subscription = item->subscription;
    int slot =
        recorder.took_off(recorder.context, item->uuid, item->subscription_id, item->suspect, item->crashes);
    if (recorder.claimed != nullptr && recorder.claimed(recorder.context, item->uuid)) {
        recorder.landed(recorder.context, slot);
        return Launch::claimed;
    }
    // After the claims: a claim is given up after the recall is there to be seen.
    if (recalled()) {
        recorder.landed(recorder.context, slot);
        return Launch::failed;
    }
    if (request != nullptr) {
        request->tag = reinterpret_cast<uintptr_t>(item);
        request->connect_timeout = subscription->connect_timeout;
        request->response_timeout = subscription->response_timeout;
        if (!engine->add(*request, now)) {
            recorder.landed(recorder.context, slot);
            short_of_memory = true;
            return Launch::failed;
        }
        count_requests(1);
    }
    item->flight_slot = slot;
    item->attempted_at = wall;
    item->token_serial = subscription->token.serial;
    item->has_callback = subscription->has_callback;
    item->custom_countdown = subscription->custom_countdown;
    if (subscription->in_flight++ == 0)
        subscription->last_progress = now;
    subscription->owner->in_flight++;
    subscription->in_flying.join(&flying);
    in_flight_by[static_cast<size_t>(subscription->effective())]++;
    return Launch::sent;
}

// An attempt that fails before there is a request: for what would fail again at once, and hold up the others.
// One a pause, so that a backlog neither takes the others' turns nor is used up before somebody looks.
Launch Outbox::Impl::fail_unsent(Item *item, const char *why, Micros now, WallMicros wall) noexcept {
    Launch result = take_off(item, nullptr, now, wall);
    if (result != Launch::sent)
        return result;
    HttpResult failed{};
    failed.failure = Failure::internal;
    failed.error = slice(why);
    item->attempts++;
    item->subscription->rests_until = wall + unsent_pause;
    try {
        conclude(item, failed, now, wall);
    } catch (const std::bad_alloc &) {
        item->attempts--;
        item->attempted_at = 0;
        leave_flight(item, now);
        land(item);
        arm(item->subscription, wall); // for the end of that pause
        short_of_memory = true;
        return Launch::failed;
    }
    return Launch::sent;
}

Launch Outbox::Impl::launch(Item *item, Micros now, WallMicros wall) noexcept {
    Subscription *subscription = item->subscription;
    if (item->body_lost)
        return fail_unsent(item, "the payload is missing from whisperer.event", now, wall);
    if (needs_token(*subscription, now))
        return ask_token(item, now, wall);
    bool by_token = !subscription->token.url.empty();
    RequestParts parts{};
    parts.uuid = item->uuid;
    parts.event_type = slice(item->event_type);
    parts.payload = slice(item->payload);
    parts.whole_body = item->whole_body;
    parts.unix_seconds = wall / static_cast<WallMicros>(micros_per_second);
    parts.user_agent = slice(user_agent);
    parts.user_headers = subscription->header_slices.data();
    parts.user_header_count = subscription->header_slices.size();
    parts.has_secret = subscription->has_secret;
    parts.secret = slice(subscription->secret);
    parts.authorization = slice(by_token ? subscription->token.authorization : subscription->authorization);
    if (!builder.build(parts)) {
        if (builder.cannot_sign())
            return fail_unsent(item, "the request could not be signed: the secret, or OpenSSL's HMAC", now,
                               wall);
        short_of_memory = true;
        return Launch::failed;
    }
    HttpRequest request{};
    request.url = slice(subscription->url);
    request.headers = builder.headers();
    request.header_count = builder.header_count();
    request.body = builder.body();
    request.max_response_body = limits.max_response_body;
    Launch result = take_off(item, &request, now, wall);
    if (result != Launch::sent)
        return result;
    item->attempts++;
    drop_payload(item);
    return result;
}

// It leaves the memory, and is read again a moment later if it is still there then.
void Outbox::Impl::leave_to_other(Item *item, WallMicros wall) noexcept {
    Subscription *subscription = item->subscription;
    remember_crashes(*item);
    forget(item);
    subscription->reread_at = std::min(subscription->reread_at, wall + claimed_again);
    arm(subscription, wall);
}

// What was in flight at a crash goes one at a time, after the rest is under way, so that the next crash tells
// which it was: the next one when the last one has landed, and is not found in the journal any more.
void Outbox::Impl::start_suspect(Micros now, WallMicros wall) {
    if (suspect_queue.empty() || trials > 0 || now - first_start < suspect_delay || !has_slot(Standing::good))
        return;
    Item *item = suspect_queue.front();
    Subscription *subscription = item->subscription;
    if (item->crashes.alone >= crash_limit) {
        std::string why = "given up: the delivery worker crashed " + std::to_string(item->crashes.alone) +
                          " times while this delivery alone was in flight";
        add_result(item); // what may throw is before it, since all is done again then
        suspect_queue.pop_front();
        drop_payload(item);
        item->outcome = Outcome::failed;
        item->error = std::move(why);
        return;
    }
    if (!subscription->sendable || subscription->is_paused(wall) || subscription->token.asking ||
        item->body_missing) {
        if (item->body_missing)
            ask_body(item);
        if (suspect_queue.size() > 1) {
            suspect_queue.push_back(item);
            suspect_queue.pop_front();
        }
        return;
    }
    Launch result = launch(item, now, wall);
    if (result == Launch::failed)
        return;
    suspect_queue.pop_front();
    if (result == Launch::sent) {
        item->on_trial = true;
        trials++;
    } else
        leave_to_other(item, wall);
}

// Starts one delivery of the next subscription in turn. False: none of this standing has one that may be sent
// now.
bool Outbox::Impl::start_one(Standing standing, Micros now, WallMicros wall) noexcept {
    size_t list = static_cast<size_t>(standing);
    while (!ready[list].empty()) {
        Subscription *subscription = ready[list].front();
        subscription->in_ready[list].leave(&ready[list]);
        if (subscription->effective() != standing) {
            make_ready(subscription);
            continue;
        }
        // It comes back when a slot is freed, its pause ends, or something is read.
        if (!may_send(*subscription, wall)) {
            arm(subscription, wall);
            continue;
        }
        if (!leaves_enough(subscription))
            continue;
        Item *item = subscription->queue.front();
        if (item->body_missing) {
            if (!ask_body(item)) // else give_body() makes it ready again
                subscription->in_body_line.join(&body_line);
            continue;
        }
        Launch result = launch(item, now, wall);
        if (result != Launch::failed)
            subscription->queue.pop_front();
        if (result == Launch::claimed)
            leave_to_other(item, wall);
        make_ready(subscription);
        if (subscription->unread || subscription->next_due <= wall)
            make_hungry(subscription);
        if (result == Launch::claimed)
            continue;
        return result == Launch::sent;
    }
    return false;
}

void Outbox::start(Micros now, WallMicros wall) noexcept {
    Impl &box = *impl_;
    try {
        {
            const Guard guard(box.mutex);
            if (box.first_start == INT64_MIN)
                box.first_start = now;
            box.short_of_memory = false;
            box.fire_timers(wall);
        }
        // One at a time under the lock: the other thread may come in between, and what it says holds for the
        // next.
        for (Standing standing : {Standing::good, Standing::unknown, Standing::failing, Standing::hanging})
            for (bool more = true; more;) {
                const Guard guard(box.mutex);
                more = box.sending && box.has_slot(standing) && box.start_one(standing, now, wall);
            }
        const Guard guard(box.mutex);
        if (box.sending)
            box.start_suspect(now, wall);
    } catch (const std::bad_alloc &) {
        const Guard guard(box.mutex);
        box.short_of_memory = true; // the suspect is still queued
    }
}

void Outbox::allow_sending(bool allowed) noexcept {
    const Guard guard(impl_->mutex);
    impl_->sending = allowed;
}

void Outbox::step(Micros now, WallMicros wall) noexcept {
    Impl &box = *impl_;
    {
        const Guard guard(box.mutex);
        if (box.engine_change != nullptr) {
            const EngineChange &change = *box.engine_change;
            if (box.engine->configure(
                    {&change.policy, slice(change.ca_file), slice(change.proxy), change.max_connections}))
                box.engine_change = nullptr; // else again in the next step
        }
    }
    box.engine->step(now);
    const Guard guard(box.mutex);
    if (box.clock_was_put_back(now, wall)) {
        mark_all_dirty(); // what was to be read again in a moment, too
        for (auto &entry : box.subscriptions) {
            box.arm(entry.second.get(), wall);
            box.make_ready(entry.second.get());
        }
    }
    box.wake_postponed(wall);
    size_t before = box.requests;
    try {
        while (const HttpResult *http = box.engine->peek_done()) {
            box.take_result(*http, now, wall);
            box.engine->pop_done();
            box.count_requests(-1);
        }
        box.find_stalled(now);
    } catch (const std::bad_alloc &) {
        // The result stays in the engine until there is memory.
    }
    box.end_crowd(before - box.requests);
}

size_t Outbox::in_flight() const noexcept {
    const Guard guard(impl_->mutex);
    return impl_->requests;
}

int Outbox::timeout_ms(Micros now, WallMicros wall, bool sending) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    int64_t wait = box.engine->timeout_ms(now);
    auto at_most = [&wait](int64_t limit) { wait = wait < 0 ? limit : std::min(wait, limit); };
    auto until = [&](WallMicros time) { at_most(std::max<int64_t>(0, (time - wall + 999) / 1000)); };
    for (const Item *item : box.postponed)
        until(item->postponed_until);
    if (box.requests > 0 || !box.postponed.empty())
        at_most(250);
    if (sending) {
        if (box.short_of_memory)
            at_most(short_of_memory_wait_ms);
        if (!box.timers.empty())
            until(box.timers.begin()->first);
        if (!box.adoptions.empty() && moment_lasts(box.adoptions_again, wall))
            until(box.adoptions_again);
        if (!box.suspect_queue.empty() && box.trials == 0)
            at_most(250);
    }
    return static_cast<int>(std::min<int64_t>(wait, INT32_MAX));
}

} // namespace whisperer::core
