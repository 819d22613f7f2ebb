// Results of attempts, until they are recorded.
#include "core/outbox_impl.hpp"

#include <algorithm>

namespace whisperer::core {

size_t Outbox::result_count() const noexcept {
    const Guard guard(impl_->mutex);
    return impl_->results.size();
}

size_t Outbox::unrecorded_count() const noexcept {
    const Guard guard(impl_->mutex);
    return impl_->results.size() + impl_->postponed.size();
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
                         item.due,
                         item.xid};
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
                              [now](const Item *item) { return moment_lasts(item->postponed_until, now); });
    for (auto place = due; place != postponed.end(); ++place) {
        (*place)->postponed_until = 0;
        results.push_back(*place);
        tried_again++;
    }
    postponed.erase(due, postponed.end());
}

void Outbox::end_postponements() noexcept {
    const Guard guard(impl_->mutex);
    for (Item *item : impl_->postponed)
        item->postponed_until = 0;
    impl_->wake_postponed(0);
}

// Timers that were set for times which are far off now are set anew then.
bool Outbox::Impl::clock_was_put_back(Micros now, WallMicros wall) noexcept {
    constexpr Micros tolerance = 1000 * 1000;
    const Micros offset = wall - now;
    const bool put_back = offset < clock_offset - tolerance;
    clock_offset = offset;
    return put_back;
}

void Outbox::Impl::end_postponement(Subscription *subscription) noexcept {
    subscription->postponed--;
    make_ready(subscription);
}

void Outbox::Impl::put_aside(Item *item) noexcept {
    if (item->subscription != nullptr && !item->was_postponed)
        item->subscription->postponed++;
    item->was_postponed = true;
    end_trial(item); // or who holds its row would hold up the others
    // Of so many the responses are too much to remember.
    if (postponed.size() >= unrecorded_limit && !(item->response.empty() && item->headers.empty())) {
        item->response_truncated = true;
        item->response = item->headers = std::string();
    }
    postponed.push_back(item);
}

void Outbox::settle_results() noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    size_t kept = 0;
    bool were_many = box.postponed.size() + box.tried_again >= many_unrecorded;
    box.tried_again = 0;
    for (size_t i = 0; i < box.results.size(); i++) {
        Item *item = box.results[i];
        if (!item->is_recorded) {
            if (item->postponed_until > 0)
                box.put_aside(item);
            else {
                box.results[kept++] = item;
                box.tried_again += item->was_postponed ? 1 : 0;
            }
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
    if (were_many && box.postponed.size() + box.tried_again < many_unrecorded)
        for (auto &entry : box.subscriptions) // some waited for that
            box.make_ready(entry.second.get());
}

void Outbox::Impl::land(Item *item) noexcept {
    if (item->flight_slot >= 0)
        recorder.landed(recorder.context, item->flight_slot);
    item->flight_slot = -1;
    end_trial(item);
}

void Outbox::Impl::end_trial(Item *item) noexcept {
    trials -= item->on_trial ? 1 : 0;
    item->on_trial = false;
}

// Its crashes count no more.
void Outbox::Impl::acquit(const Item &item) noexcept {
    if (item.crashes.crashes > 0 && item.flight_slot < 0 && recorder.acquitted != nullptr)
        recorder.acquitted(recorder.context, item.uuid);
}

} // namespace whisperer::core
