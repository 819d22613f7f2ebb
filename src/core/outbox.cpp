#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

// A receiver's state is saved at most this often, unless it must not be lost.
constexpr Micros state_interval = 1000 * 1000;

template <typename List, typename T> void erase_from(List *list, const T &value) noexcept {
    list->erase(std::remove(list->begin(), list->end(), value), list->end());
}

} // namespace

Outbox::Outbox(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

Outbox::~Outbox() = default;

Outbox *Outbox::create(HttpEngine *engine, const OutboxLimits &limits, const Random &random,
                       const FlightRecorder &recorder, Slice user_agent) noexcept {
    std::unique_ptr<HttpEngine> owned(engine);
    try {
        auto impl = std::make_unique<Impl>();
        impl->engine = std::move(owned);
        impl->limits = limits;
        impl->random = random;
        impl->recorder = recorder;
        impl->user_agent.assign(user_agent.view());
        return new Outbox(std::move(impl));
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

HttpEngine *Outbox::engine() noexcept {
    return impl_->engine.get();
}

bool Outbox::configure(const EngineSettings &settings) noexcept {
    try {
        auto change = std::make_unique<EngineChange>();
        change->policy = *settings.policy;
        change->ca_file.assign(settings.ca_file.view());
        change->proxy.assign(settings.proxy.view());
        change->max_connections = settings.max_connections;
        const Guard guard(impl_->mutex);
        impl_->engine_change = std::move(change);
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

void Outbox::set_limits(const OutboxLimits &limits) noexcept {
    const Guard guard(impl_->mutex);
    impl_->limits = limits;
    for (auto &entry : impl_->subscriptions) {
        Subscription &subscription = *entry.second;
        subscription.window = std::clamp(subscription.window, 1, impl_->most_in_flight(subscription));
    }
}

Subscription *Outbox::Impl::find(int64_t id) noexcept {
    auto place = subscriptions.find(id);
    return place == subscriptions.end() ? nullptr : place->second.get();
}

// The item's memory goes; its subscription's queue no longer holds it.
void Outbox::Impl::forget(Item *item) noexcept {
    queued_bytes -= item->payload.size();
    items.erase(item->uuid);
}

void Outbox::Impl::drop_payload(Item *item) noexcept {
    queued_bytes -= item->payload.size();
    item->payload = std::string();
}

void Outbox::Impl::land(Item *item) noexcept {
    if (item->flight_slot >= 0)
        recorder.landed(recorder.context, item->flight_slot);
    item->flight_slot = -1;
}

// Its crashes count no more.
void Outbox::Impl::acquit(const Item &item) noexcept {
    if (item.crashes.crashes > 0 && item.flight_slot < 0 && recorder.acquitted != nullptr)
        recorder.acquitted(recorder.context, item.uuid);
}

void Outbox::Impl::drop_queue(Subscription *subscription) noexcept {
    for (Item *item : subscription->queue) {
        remember_crashes(*item);
        forget(item);
    }
    subscription->queue.clear();
    for (auto place = suspect_queue.begin(); place != suspect_queue.end();) {
        Item *item = *place;
        if (item->subscription != subscription) {
            ++place;
            continue;
        }
        place = suspect_queue.erase(place);
        remember_crashes(*item);
        forget(item);
    }
}

// For when the delivery is read again.
void Outbox::Impl::remember_crashes(const Item &item) noexcept {
    if (item.crashes.crashes == 0)
        return;
    try {
        crashed.emplace(item.uuid, item.crashes);
    } catch (const std::bad_alloc &) {
        // Then it is sent like any other.
    }
}

// Everything is read again, from the beginning; what is in memory is recognised.
void Outbox::Impl::reset_reading(Subscription *subscription) noexcept {
    subscription->reading_serial++;
    subscription->read_from = nullptr;
    subscription->read_to = nullptr;
    subscription->unread = true;
    subscription->retry_due = INT64_MIN;
    subscription->retry_uuid = Uuid{};
    subscription->next_due = INT64_MIN;
    subscription->reread_at = never;
}

// Nothing is sent any more; the shell is told to write it down.
void Outbox::Impl::deactivate(Subscription *subscription) noexcept {
    subscription->deactivate = true;
    subscription->sendable = false;
    drop_queue(subscription);
    reset_reading(subscription);
}

void Outbox::Impl::note_state(Subscription *subscription, bool urgent) {
    subscription->state_changed = true;
    subscription->state_urgent = subscription->state_urgent || urgent;
    if (!subscription->in_changed) {
        changed.push_back(subscription);
        subscription->in_changed = true;
    }
}

bool Outbox::put_subscription(const SubscriptionFields &fields) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    try {
        auto [place, is_new] = box.subscriptions.try_emplace(fields.id);
        if (is_new) {
            try {
                place->second = std::make_unique<Subscription>();
                place->second->id = fields.id;
                place->second->bucket = fields.bucket;
                box.buckets[static_cast<size_t>(fields.bucket)].push_back(place->second.get());
            } catch (...) {
                box.subscriptions.erase(place);
                throw;
            }
        }
        Subscription *subscription = place->second.get();
        subscription->url.assign(fields.url.view());
        subscription->header_slices.clear();
        subscription->header_lines.clear();
        for (size_t i = 0; i < fields.header_count; i++)
            subscription->header_lines.emplace_back(fields.header_lines[i].view());
        for (const std::string &line : subscription->header_lines)
            subscription->header_slices.push_back(slice(line));
        subscription->has_secret = fields.has_secret;
        subscription->secret.assign(fields.secret.view());
        subscription->authorization.assign(fields.authorization.view());
        box.set_token_source(subscription, fields.token);
        subscription->connect_timeout = fields.connect_timeout;
        subscription->response_timeout = fields.response_timeout;
        subscription->max_attempts = fields.max_attempts;
        subscription->max_in_flight = fields.max_in_flight;
        subscription->schedule.assign(fields.countdown.schedule,
                                      fields.countdown.schedule + fields.countdown.schedule_count);
        subscription->countdown = fields.countdown;
        subscription->countdown.schedule = subscription->schedule.data();
        subscription->custom_countdown = fields.custom_countdown;
        subscription->has_callback = fields.has_callback;
        subscription->window = std::clamp(subscription->window, 1, box.most_in_flight(*subscription));
        // A 410 whose deactivation is not written yet holds.
        bool sendable = fields.sendable && !subscription->deactivate;
        if (subscription->sendable && !sendable)
            box.drop_queue(subscription);
        if (subscription->sendable != sendable)
            box.reset_reading(subscription);
        subscription->sendable = sendable;
        box.make_hungry(subscription);
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

void Outbox::Impl::detach(Subscription *subscription) noexcept {
    drop_queue(subscription);
    for (auto &entry : items)
        if (entry.second->subscription == subscription)
            entry.second->subscription = nullptr;
    in_flight_by[static_cast<size_t>(subscription->effective())] -= subscription->in_flight;
    for (auto &list : ready)
        erase_from(&list, subscription);
    erase_from(&hungry, subscription);
    erase_from(&changed, subscription);
    if (subscription->timer != never)
        timers.erase({subscription->timer, subscription});
    flying.erase(subscription);
    recheck.erase(subscription);
    auto &bucket = buckets[static_cast<size_t>(subscription->bucket)];
    bucket.erase(std::remove(bucket.begin(), bucket.end(), subscription), bucket.end());
}

void Outbox::remove_subscription(int64_t id) noexcept {
    const Guard guard(impl_->mutex);
    Subscription *subscription = impl_->find(id);
    if (subscription == nullptr)
        return;
    impl_->detach(subscription);
    impl_->subscriptions.erase(id);
}

void Outbox::set_receiver_state(const ReceiverState &state) noexcept {
    const Guard guard(impl_->mutex);
    Subscription *subscription = impl_->find(state.subscription);
    if (subscription == nullptr)
        return;
    subscription->consecutive_failures = state.consecutive_failures;
    subscription->paused_until = std::max(subscription->paused_until, state.paused_until);
    subscription->last_status = state.last_status;
    if (state.consecutive_failures > 0) {
        subscription->window = 1;
        impl_->in_flight_by[static_cast<size_t>(subscription->effective())] -= subscription->in_flight;
        subscription->standing = Standing::bad;
        impl_->in_flight_by[static_cast<size_t>(subscription->effective())] += subscription->in_flight;
    }
    try {
        subscription->last_error.assign(state.last_error.view());
        if (state.paused_until > 0)
            impl_->set_timer(subscription, state.paused_until); // fires at once if it is over
    } catch (const std::bad_alloc &) {
        // Only what is shown; the safety scan looks at the subscription again.
    }
}

bool Outbox::next_changed_state(ReceiverState *state, bool *deactivate, Micros now) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    for (size_t left = box.changed.size(); left > 0; left--) {
        Subscription *subscription = box.changed.front();
        if (!subscription->state_urgent && now != at_once &&
            now - subscription->state_given < state_interval) {
            box.changed.splice(box.changed.end(), box.changed, box.changed.begin());
            continue;
        }
        try {
            box.given_error = subscription->last_error;
        } catch (const std::bad_alloc &) {
            return false; // later
        }
        box.changed.pop_front();
        subscription->in_changed = false;
        subscription->state_changed = false;
        subscription->state_urgent = false;
        if (now != at_once)
            subscription->state_given = now;
        *state = ReceiverState{subscription->id, subscription->consecutive_failures,
                               subscription->paused_until, subscription->last_status, slice(box.given_error)};
        *deactivate = subscription->deactivate;
        subscription->deactivate = false;
        return true;
    }
    return false;
}

void Outbox::state_not_saved(int64_t id, bool deactivate) noexcept {
    const Guard guard(impl_->mutex);
    Subscription *subscription = impl_->find(id);
    if (subscription == nullptr)
        return;
    subscription->deactivate = subscription->deactivate || deactivate;
    try {
        impl_->note_state(subscription, false);
    } catch (const std::bad_alloc &) {
        // The next change saves it.
    }
}

bool Outbox::has_changed_states() const noexcept {
    const Guard guard(impl_->mutex);
    return !impl_->changed.empty();
}

void Outbox::learn_elsewhere(const ReceiverState &state, bool deactivate) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    Subscription *subscription = box.find(state.subscription);
    if (subscription == nullptr)
        return;
    subscription->consecutive_failures =
        state.consecutive_failures > 0 ? subscription->consecutive_failures + 1 : 0;
    subscription->last_status = state.last_status;
    if (deactivate)
        box.deactivate(subscription);
    bool longer = state.paused_until > subscription->paused_until;
    if (longer)
        subscription->paused_until = state.paused_until;
    try {
        subscription->last_error.assign(state.last_error.view());
        box.note_state(subscription, longer || deactivate);
        if (longer)
            box.set_timer(subscription, std::min(subscription->paused_until, subscription->reread_at));
    } catch (const std::bad_alloc &) {
        // Only what is shown; the safety scan looks at the subscription again.
    }
}

bool Outbox::accepts(int64_t id, WallMicros now) const noexcept {
    const Guard guard(impl_->mutex);
    const Subscription *subscription = impl_->find(id);
    return subscription != nullptr && subscription->sendable && subscription->paused_until <= now;
}

size_t Outbox::deliveries() const noexcept {
    const Guard guard(impl_->mutex);
    return impl_->items.size();
}

bool Outbox::add_suspect(const Uuid &uuid, const CrashCount &count) noexcept {
    const Guard guard(impl_->mutex);
    try {
        impl_->crashed.emplace(uuid, count);
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

size_t Outbox::result_count() const noexcept {
    const Guard guard(impl_->mutex);
    return impl_->results.size();
}

AttemptResult Outbox::result(size_t index) const noexcept {
    const Guard guard(impl_->mutex);
    const Item &item = *impl_->results[index];
    return AttemptResult{item.uuid,
                         item.subscription_id,
                         item.outcome,
                         item.attempts,
                         item.status,
                         slice(item.error),
                         slice(item.response),
                         item.response_truncated,
                         slice(item.headers),
                         item.has_callback,
                         item.custom_countdown,
                         item.elapsed,
                         item.attempted_at,
                         item.due};
}

void Outbox::recorded(size_t index) noexcept {
    const Guard guard(impl_->mutex);
    impl_->results[index]->is_recorded = true;
}

void Outbox::postpone(size_t index, WallMicros again) noexcept {
    const Guard guard(impl_->mutex);
    impl_->results[index]->postponed_until = again;
}

void Outbox::Impl::add_result(Item *item) {
    size_t unrecorded = results.size() + postponed.size() + 1;
    if (postponed.capacity() < unrecorded)
        postponed.reserve(unrecorded * 2);
    if (results.capacity() < unrecorded)
        results.reserve(unrecorded * 2);
    results.push_back(item);
}

// Never allocates: both lists have room for all.
void Outbox::Impl::wake_postponed(WallMicros now) noexcept {
    auto due = std::partition(postponed.begin(), postponed.end(),
                              [now](const Item *item) { return item->postponed_until > now; });
    for (auto place = due; place != postponed.end(); ++place) {
        (*place)->postponed_until = 0;
        results.push_back(*place);
    }
    postponed.erase(due, postponed.end());
}

// What waits a moment, beside due times of the wall clock, must not wait until a clock that was put back
// shows that moment again.
bool Outbox::Impl::clock_was_put_back(Micros now, WallMicros wall) noexcept {
    constexpr Micros tolerance = 1000 * 1000;
    const Micros offset = wall - now;
    const bool put_back = offset < clock_offset - tolerance;
    clock_offset = offset;
    if (!put_back)
        return false;
    for (Item *item : postponed)
        item->postponed_until = std::min(item->postponed_until, wall);
    adoptions_again = std::min(adoptions_again, wall);
    return true;
}

void Outbox::Impl::end_postponement(Subscription *subscription) noexcept {
    subscription->postponed--;
    try {
        make_ready(subscription);
    } catch (const std::bad_alloc &) {
        // It is made ready when something is read for it.
    }
}

void Outbox::settle_results() noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    size_t kept = 0;
    for (size_t i = 0; i < box.results.size(); i++) {
        Item *item = box.results[i];
        if (!item->is_recorded) {
            if (item->postponed_until > 0) {
                if (item->subscription != nullptr && !item->was_postponed)
                    item->subscription->postponed++;
                item->was_postponed = true;
                box.postponed.push_back(item);
            } else
                box.results[kept++] = item;
            continue;
        }
        Subscription *subscription = item->subscription;
        if (subscription != nullptr && item->outcome == Outcome::retry)
            box.retry_written(subscription, item->due);
        if (subscription != nullptr && item->was_postponed)
            box.end_postponement(subscription);
        box.acquit(*item);
        box.land(item);
        box.forget(item);
    }
    box.results.resize(kept);
}

} // namespace whisperer::core
