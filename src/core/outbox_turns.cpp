// Which subscriptions have something to read, and how much of it they may have in memory.
#include "core/outbox_impl.hpp"

#include <algorithm>

namespace whisperer::core {

namespace {

// Deliveries read ahead for a good receiver, in windows; read again when half of them are gone.
constexpr int read_ahead = 16;
// And for one that fails at once, rows: each would need a reading of its own otherwise.
constexpr int failing_ahead = 8;
// Memory taken by what waits above which nothing is read ahead any more; and above which a subscription that
// has nothing in memory gets one delivery at a time.
constexpr size_t read_ahead_bytes = 16 * 1024 * 1024;
constexpr size_t most_queued_bytes = 64 * 1024 * 1024;
// Rows that a subscription gets at once at most.
constexpr int rows_of_one = 1024;

} // namespace

// Rows to be read now, 0 if there is no room. Nothing is read ahead for a receiver that nobody knows or that
// hangs, so that what it occupies in memory is a few rows.
int Outbox::Impl::wanted_rows(const Subscription &subscription) const noexcept {
    int queued = static_cast<int>(subscription.queue.size()) + subscription.being_read;
    int want = subscription.window - subscription.in_flight;
    size_t memory = queued_bytes + items.size() * sizeof(Item);
    int ahead = 0;
    if (memory >= most_queued_bytes)
        want = std::min(want, 1);
    else if (memory < read_ahead_bytes) {
        if (subscription.effective() == Standing::good)
            ahead = subscription.window * read_ahead;
        else if (subscription.effective() == Standing::failing)
            ahead = failing_ahead;
    }
    // Enough, unless there is a reading under way, whose second half this is.
    if (ahead > 0 && subscription.being_read == 0 && queued >= ahead / 2)
        return 0;
    return std::clamp(std::max(want, ahead) - queued, 0, rows_of_one);
}

// Of these, new rows. Half the room is for retries that are due: more new ones may come than are sent.
int Outbox::Impl::wanted_new(Subscription *subscription) const noexcept {
    int want = wanted_rows(*subscription);
    if (want == 0 || subscription->next_due > looked_at)
        return want;
    if (want > 1)
        return want - want / 2;
    subscription->retries_turn = !subscription->retries_turn;
    return subscription->retries_turn ? 0 : 1;
}

bool Outbox::Impl::is_hungry(const Subscription &subscription, WallMicros now) const noexcept {
    return subscription.sendable && subscription.paused_until <= now &&
           (subscription.unread || subscription.next_due <= now) && wanted_rows(subscription) > 0;
}

void Outbox::Impl::make_hungry(Subscription *subscription) noexcept {
    subscription->in_hungry.join(&hungry);
}

void Outbox::Impl::set_timer(Subscription *subscription, WallMicros when) noexcept {
    if (subscription->timer == when)
        return;
    if (subscription->timer != never)
        subscription->timer_node = timers.extract({subscription->timer, subscription});
    subscription->timer = when;
    if (when != never) {
        subscription->timer_node.value().first = when;
        timers.insert(std::move(subscription->timer_node));
    }
}

// When must the subscription be looked at without anything happening to it?
void Outbox::Impl::arm(Subscription *subscription, WallMicros now) noexcept {
    WallMicros when = subscription->next_due > now ? subscription->next_due : never;
    if (subscription->paused_until > now)
        when = subscription->paused_until;
    if (moment_lasts(subscription->rests_until, now))
        when = std::min(when, subscription->rests_until);
    set_timer(subscription, std::min(when, subscription->reread_at));
}

void Outbox::Impl::fire_timers(WallMicros now) noexcept {
    while (!timers.empty() && timers.begin()->first <= now) {
        Subscription *subscription = timers.begin()->second;
        if (subscription->reread_at <= now)
            reset_reading(subscription);
        arm(subscription, now);
        make_hungry(subscription);
        make_ready(subscription);
    }
}

void Outbox::Impl::mark_dirty(const std::vector<Subscription *> &bucket) noexcept {
    for (Subscription *subscription : bucket) {
        subscription->unread = true;
        if (subscription->reread_at != never)
            reset_reading(subscription);
        make_hungry(subscription);
        if (!subscription->queue.empty())
            subscription->in_recheck.join(&recheck);
    }
}

void Outbox::mark_bucket_dirty(int bucket) noexcept {
    const Guard guard(impl_->mutex);
    impl_->mark_dirty(impl_->buckets[static_cast<size_t>(bucket)]);
    for (const Item *item : impl_->suspect_queue)
        if (item->subscription->bucket == bucket)
            item->subscription->in_recheck.join(&impl_->recheck);
}

void Outbox::mark_all_dirty() noexcept {
    const Guard guard(impl_->mutex);
    for (const auto &bucket : impl_->buckets)
        impl_->mark_dirty(bucket);
    for (const Item *item : impl_->suspect_queue)
        item->subscription->in_recheck.join(&impl_->recheck);
}

bool Outbox::wants_read(WallMicros now) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    box.fire_timers(now);
    box.looked_at = now;
    // Those that want nothing any more leave the list here; they come back when a slot is freed or a bucket
    // is dirty. Or when it is time: the other thread, which has looked at the clock later, may have taken
    // that for reached and the timer for done.
    while (!box.hungry.empty() && !box.is_hungry(*box.hungry.front(), now)) {
        Subscription *subscription = box.hungry.front();
        subscription->in_hungry.leave(&box.hungry);
        box.arm(subscription, now);
    }
    return !box.hungry.empty();
}

bool Outbox::wants_tables(WallMicros now) noexcept {
    const Guard guard(impl_->mutex);
    return wants_read(now) || wants_bodies() || has_unsent_to_check() || wants_adoptions(now) ||
           impl_->recalled();
}

} // namespace whisperer::core
