#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

Told copy_of(const SubscriptionFields &fields) {
    Told told;
    told.url.assign(fields.url.view());
    for (size_t i = 0; i < fields.header_count; i++)
        told.header_lines.emplace_back(fields.header_lines[i].view());
    for (const std::string &line : told.header_lines)
        told.header_slices.push_back(slice(line));
    told.has_secret = fields.has_secret;
    told.secret.assign(fields.secret.view());
    told.authorization.assign(fields.authorization.view());
    told.connect_timeout = fields.connect_timeout;
    told.response_timeout = fields.response_timeout;
    told.max_attempts = fields.max_attempts;
    told.max_in_flight = fields.max_in_flight;
    told.schedule.assign(fields.countdown.schedule,
                         fields.countdown.schedule + fields.countdown.schedule_count);
    told.countdown = fields.countdown;
    told.countdown.schedule = told.schedule.data();
    told.custom_countdown = fields.custom_countdown;
    told.has_callback = fields.has_callback;
    told.sendable = fields.sendable;
    return told;
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
        impl->bodies_wanted.reserve(Impl::bodies_at_once);
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

Subscription *Outbox::Impl::add_subscription(int64_t id, int bucket) {
    auto place = subscriptions.emplace(id, std::make_unique<Subscription>(id, bucket)).first;
    try {
        buckets[static_cast<size_t>(bucket)].push_back(place->second.get());
    } catch (...) {
        subscriptions.erase(place);
        throw;
    }
    return place->second.get();
}

bool Outbox::put_subscription(const SubscriptionFields &fields) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    try {
        Told told = copy_of(fields);
        Token source = token_source(fields.token);
        Subscription *subscription = box.find(fields.id);
        if (subscription == nullptr)
            subscription = box.add_subscription(fields.id, fields.bucket);
        box.set_owner(subscription, fields.owner);
        // From here on nothing throws. A 410 whose deactivation is not written yet holds.
        told.sendable = told.sendable && !subscription->deactivate;
        const bool was_sendable = subscription->sendable;
        static_cast<Told &>(*subscription) = std::move(told);
        take_source(&subscription->token, std::move(source));
        subscription->window = std::clamp(subscription->window, 1, box.most_in_flight(*subscription));
        if (was_sendable && !subscription->sendable)
            box.drop_queue(subscription);
        if (was_sendable != subscription->sendable)
            box.reset_reading(subscription);
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
    leave_owner(subscription);
    for (size_t i = 0; i < standings; i++)
        subscription->in_ready[i].leave(&ready[i]);
    subscription->in_crowd.leave(&crowd);
    subscription->in_body_line.leave(&body_line);
    subscription->in_hungry.leave(&hungry);
    subscription->in_changed.leave(&changed);
    set_timer(subscription, never);
    subscription->in_flying.leave(&flying);
    subscription->in_recheck.leave(&recheck);
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

bool Outbox::accepts(int64_t id, WallMicros now) const noexcept {
    const Guard guard(impl_->mutex);
    const Subscription *subscription = impl_->find(id);
    return subscription != nullptr && subscription->sendable && !subscription->is_paused(now);
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

} // namespace whisperer::core
