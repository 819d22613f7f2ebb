#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

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
        box.set_owner(subscription, fields.owner);
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
    leave_owner(subscription);
    for (auto &list : ready)
        erase_from(&list, subscription);
    erase_from(&hungry, subscription);
    erase_from(&body_line, subscription);
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

} // namespace whisperer::core
