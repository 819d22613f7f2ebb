// Which rows to read next, and where reading has got to.
#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

// Deliveries read ahead for a good receiver, in windows; read again when half of them are gone.
constexpr int read_ahead = 4;
// Memory taken by what waits above which nothing is read ahead any more; and above which a subscription that has nothing in
// memory gets one delivery at a time.
constexpr size_t read_ahead_bytes = 16 * 1024 * 1024;
constexpr size_t most_queued_bytes = 64 * 1024 * 1024;
// Ranges of transactions asked for at once for one subscription.
constexpr size_t ranges_at_once = 8;
// Subscriptions that one round of reading serves.
constexpr size_t subscriptions_at_once = 128;
// Rows that one round brings at most, new ones and retries each, and those of one subscription. (The more there may be, the
// smaller are the bodies that the shell brings along.)
constexpr int rows_at_once = 16384;
constexpr int rows_of_one = 1024;

bool position_in(const Subscription &subscription, const XidRange &range) noexcept {
    return subscription.position_xid >= range.lo && subscription.position_xid < range.hi;
}

} // namespace

// Rows to be read now, 0 if there is no room. Only for a receiver known to be good is anything read ahead, so that what a
// hanging one occupies in memory is a few rows.
int Outbox::Impl::wanted_rows(const Subscription &subscription) const noexcept {
    int queued = static_cast<int>(subscription.queue.size());
    int want = subscription.window - subscription.in_flight;
    size_t memory = queued_bytes + items.size() * sizeof(Item);
    if (memory >= most_queued_bytes)
        want = std::min(want, 1);
    else if (subscription.effective() == Standing::good && memory < read_ahead_bytes) {
        if (queued >= subscription.window * read_ahead / 2)
            return 0;
        want = subscription.window * read_ahead;
    }
    return std::clamp(want - queued, 0, rows_of_one);
}

bool Outbox::Impl::is_hungry(const Subscription &subscription, WallMicros now) const noexcept {
    return subscription.sendable && subscription.paused_until <= now &&
           (subscription.unread || subscription.next_due <= now) && wanted_rows(subscription) > 0;
}

void Outbox::Impl::make_hungry(Subscription *subscription) {
    if (!subscription->in_hungry) {
        hungry.push_back(subscription);
        subscription->in_hungry = true;
    }
}

void Outbox::Impl::set_timer(Subscription *subscription, WallMicros when) {
    if (subscription->timer == when)
        return;
    if (subscription->timer != never)
        timers.erase({subscription->timer, subscription});
    subscription->timer = never;
    if (when != never) {
        timers.insert({when, subscription});
        subscription->timer = when;
    }
}

// When must the subscription be looked at without anything happening to it?
void Outbox::Impl::arm(Subscription *subscription, WallMicros now) {
    WallMicros when = subscription->next_due > now ? subscription->next_due : never;
    if (subscription->paused_until > now)
        when = subscription->paused_until;
    set_timer(subscription, std::min(when, subscription->reread_at));
}

void Outbox::Impl::fire_timers(WallMicros now) {
    while (!timers.empty() && timers.begin()->first <= now) {
        Subscription *subscription = timers.begin()->second;
        if (subscription->reread_at <= now)
            reset_reading(subscription);
        arm(subscription, now);
        make_hungry(subscription);
        make_ready(subscription);
    }
}

void Outbox::mark_bucket_dirty(int bucket) noexcept {
    try {
        for (Subscription *subscription : impl_->buckets[static_cast<size_t>(bucket)]) {
            subscription->unread = true;
            if (subscription->reread_at != never)
                impl_->reset_reading(subscription);
            impl_->make_hungry(subscription);
            if (!subscription->queue.empty())
                impl_->recheck.insert(subscription);
        }
    } catch (const std::bad_alloc &) {
        // `unread` is set: the next safety scan finds it.
    }
}

void Outbox::mark_all_dirty() noexcept {
    for (int bucket = 0; bucket < bucket_count; bucket++)
        mark_bucket_dirty(bucket);
}

bool Outbox::wants_read(WallMicros now) noexcept {
    Impl &box = *impl_;
    try {
        box.fire_timers(now);
    } catch (const std::bad_alloc &) {
        return false;
    }
    // Those that want nothing any more leave the list here; they come back when a slot is freed or a bucket is dirty.
    while (!box.hungry.empty() && !box.is_hungry(*box.hungry.front(), now)) {
        box.hungry.front()->in_hungry = false;
        box.hungry.pop_front();
    }
    return !box.hungry.empty();
}

bool Outbox::set_snapshot(Xid xmin, Xid xmax, const Xid *running, size_t count) noexcept {
    std::shared_ptr<const Snapshot> snapshot = Snapshot::make(xmin, xmax, running, count);
    if (snapshot == nullptr)
        return false;
    impl_->now_snapshot = std::move(snapshot);
    return true;
}

// The subscriptions whose turn it is. They go to the end of the line afterwards.
void Outbox::Impl::begin_planning() {
    if (!planning.empty())
        return;
    while (!hungry.empty() && planning.size() < subscriptions_at_once) {
        planning.push_back(hungry.front());
        hungry.front()->in_hungry = false;
        hungry.pop_front();
    }
}

size_t Outbox::plan_new(NewRead *reads, size_t capacity) noexcept {
    Impl &box = *impl_;
    size_t count = 0;
    int rows = 0;
    try {
        box.begin_planning();
        std::vector<XidRange> ranges;
        for (box.reached = 0; box.reached < box.planning.size(); box.reached++) {
            Subscription *subscription = box.planning[box.reached];
            int limit = box.wanted_rows(*subscription);
            if (!subscription->unread || !subscription->sendable || limit == 0)
                continue;
            if (subscription->read_to == nullptr) {
                subscription->read_to = box.now_snapshot;
                subscription->position_xid = 0;
                subscription->position_uuid = Uuid{};
            }
            if (!visible_since(subscription->read_from.get(), *subscription->read_to, &ranges))
                break;
            auto first = std::find_if(ranges.begin(), ranges.end(), [&](const XidRange &range) {
                return range.hi > subscription->position_xid;
            });
            size_t left = static_cast<size_t>(ranges.end() - first);
            size_t take = std::min(left, ranges_at_once);
            if (count + take > capacity || rows + static_cast<int>(take) * limit > rows_at_once)
                break;
            rows += static_cast<int>(take) * limit;
            PlannedNew plan{subscription, {0, 0}, take == left, limit};
            for (size_t i = 0; i < take; i++, ++first) {
                bool inside = position_in(*subscription, *first);
                reads[count++] = NewRead{subscription->id, inside ? subscription->position_xid : first->lo, first->hi,
                                         inside ? subscription->position_uuid : Uuid{}, limit};
                box.planned_by_read.push_back(box.planned_new.size());
                plan.last = *first;
            }
            box.planned_new.push_back(plan);
        }
    } catch (const std::bad_alloc &) {
        box.undo_reads();
        box.planned_new.clear();
        box.planned_by_read.clear();
        return 0;
    }
    return count;
}

size_t Outbox::plan_retries(RetryRead *reads, size_t capacity, WallMicros now) noexcept {
    Impl &box = *impl_;
    box.planned_at = now;
    int rows = 0;
    try {
        box.begin_planning();
        for (size_t i = 0; i < box.planning.size(); i++) {
            Subscription *subscription = box.planning[i];
            if (subscription->next_due > now || !subscription->sendable)
                continue;
            int limit = box.wanted_rows(*subscription);
            if (limit == 0)
                continue;
            rows += limit;
            if (box.planned_retries.size() == capacity || rows > rows_at_once) {
                box.reached = std::min(box.reached, i);
                break;
            }
            PlannedRetry plan{};
            plan.subscription = subscription;
            plan.limit = limit + 1; // one more says when to look again
            plan.due = subscription->retry_due;
            plan.uuid = subscription->retry_uuid;
            reads[box.planned_retries.size()] =
                RetryRead{subscription->id, subscription->retry_due, subscription->retry_uuid, plan.limit};
            box.planned_retries.push_back(plan);
        }
        return box.planned_retries.size();
    } catch (const std::bad_alloc &) {
        box.planned_retries.clear();
        return 0;
    }
}

// Null if the delivery is in memory already: it was made due again while its attempt was under way, whose recording will
// say what becomes of it.
Item *Outbox::Impl::make_item(Subscription *subscription, const DeliveryRow &row) {
    auto [place, is_new] = items.try_emplace(row.uuid);
    if (!is_new)
        return nullptr;
    try {
        auto item = std::make_unique<Item>();
        item->uuid = row.uuid;
        item->subscription = subscription;
        item->subscription_id = subscription->id;
        item->attempts = row.attempts;
        item->event_type.assign(row.event_type.view());
        item->payload.assign(row.payload.view());
        item->whole_body = row.whole_body;
        item->body_missing = row.body_missing;
        auto crash = crashed.find(row.uuid);
        if (crash != crashed.end()) {
            item->crashes = crash->second;
            item->suspect = item->crashes.alone > 0 || item->crashes.crashes > 1;
            crashed.erase(crash);
        }
        just_read.push_back(item.get());
        try {
            auto &queue = item->suspect ? suspect_queue : subscription->queue;
            queue.push_back(item.get());
        } catch (...) {
            just_read.pop_back();
            throw;
        }
        queued_bytes += item->payload.size();
        place->second = std::move(item);
    } catch (...) {
        items.erase(place);
        throw;
    }
    return place->second.get();
}

bool Outbox::add_delivery(int64_t id, const DeliveryRow &row) noexcept {
    Impl &box = *impl_;
    try {
        Subscription *subscription = box.find(id);
        if (subscription != nullptr && box.make_item(subscription, row) != nullptr) {
            box.just_read.clear();
            box.make_ready(subscription);
        }
        return true;
    } catch (const std::bad_alloc &) {
        box.just_read.clear();
        return false;
    }
}

bool Outbox::add_new(size_t read, const DeliveryRow &row, WallMicros now) noexcept {
    Impl &box = *impl_;
    PlannedNew &plan = box.planned_new[box.planned_by_read[read]];
    // Each of several ranges brings up to the whole limit. After the first row too many nothing more is taken, of later
    // ranges neither, or the position would pass rows that were not.
    plan.cut = plan.cut || plan.taken == plan.limit;
    if (plan.cut)
        return true;
    try {
        if (row.not_before > now)
            box.adoptions_read.push_back({row.uuid, plan.subscription->id, row.not_before});
        else
            box.make_item(plan.subscription, row);
        plan.taken++;
        plan.subscription->position_xid = row.xid;
        plan.subscription->position_uuid = row.uuid;
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

bool Outbox::add_retry(size_t read, const DeliveryRow &row, WallMicros now) noexcept {
    Impl &box = *impl_;
    PlannedRetry &plan = box.planned_retries[read];
    if (plan.ended)
        return true;
    try {
        plan.rows++;
        if (row.due > now || plan.rows == plan.limit) {
            plan.ended = true;
            plan.next_due = row.due;
            return true;
        }
        box.make_item(plan.subscription, row);
        plan.due = row.due;
        plan.uuid = row.uuid;
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

void Outbox::Impl::finish_new(PlannedNew &plan) {
    Subscription *subscription = plan.subscription;
    bool exhausted = !plan.cut && plan.taken < plan.limit;
    if (exhausted && plan.all_ranges) {
        // What became visible after read_to is another reading.
        subscription->unread = subscription->read_to != now_snapshot;
        subscription->read_from = std::move(subscription->read_to);
        subscription->read_to = nullptr;
    } else if (exhausted) {
        subscription->position_xid = plan.last.hi;
        subscription->position_uuid = Uuid{};
    }
    make_ready(subscription);
}

void Outbox::Impl::finish_retry(const PlannedRetry &read) {
    Subscription *subscription = read.subscription;
    subscription->retry_due = read.due;
    subscription->retry_uuid = read.uuid;
    subscription->next_due = read.next_due;
    arm(subscription, planned_at);
    make_ready(subscription);
}

// The rows go out of memory and are read again.
void Outbox::Impl::undo_reads() noexcept {
    for (Item *item : just_read) {
        Subscription *subscription = item->subscription;
        auto &queue = item->suspect ? suspect_queue : subscription->queue;
        queue.erase(std::remove(queue.begin(), queue.end(), item), queue.end());
        remember_crashes(*item);
        forget(item);
    }
    for (PlannedNew &plan : planned_new) {
        plan.subscription->read_to = nullptr;
        plan.subscription->position_xid = 0;
        plan.subscription->position_uuid = Uuid{};
        plan.subscription->unread = true;
    }
}

void Outbox::finish_reads(bool ok) noexcept {
    Impl &box = *impl_;
    try {
        if (ok) {
            for (PlannedNew &plan : box.planned_new)
                box.finish_new(plan);
            for (const PlannedRetry &plan : box.planned_retries)
                box.finish_retry(plan);
            box.adoptions.insert(box.adoptions.end(), box.adoptions_read.begin(), box.adoptions_read.end());
        } else
            box.undo_reads();
        std::rotate(box.planning.begin(), box.planning.begin() + static_cast<ptrdiff_t>(box.reached), box.planning.end());
        for (Subscription *subscription : box.planning)
            box.make_hungry(subscription);
    } catch (const std::bad_alloc &) {
        box.undo_reads();
    }
    box.planning.clear();
    box.reached = 0;
    box.planned_new.clear();
    box.planned_by_read.clear();
    box.planned_retries.clear();
    box.adoptions_read.clear();
    box.just_read.clear();
}

bool Outbox::wants_adoptions(WallMicros now) const noexcept {
    return !impl_->adoptions.empty() && impl_->adoptions_again <= now;
}

bool Outbox::next_adoption(Adoption *adoption, WallMicros now) noexcept {
    Impl &box = *impl_;
    if (!wants_adoptions(now))
        return false;
    *adoption = box.adoptions.front();
    box.adoptions.pop_front();
    return true;
}

void Outbox::adopted(const Adoption &adoption) noexcept {
    Subscription *subscription = impl_->find(adoption.subscription);
    if (subscription != nullptr)
        impl_->retry_written(subscription, adoption.due);
}

void Outbox::adoption_failed(const Adoption &adoption, WallMicros again) noexcept {
    impl_->adoptions_again = again;
    try {
        impl_->adoptions.push_back(adoption);
    } catch (const std::bad_alloc &) {
        Subscription *subscription = impl_->find(adoption.subscription);
        if (subscription != nullptr)
            impl_->reset_reading(subscription);
    }
}

// The worker wrote a due time. One that is behind the reader (a clock that went back, a countdown of nothing) draws it back.
void Outbox::Impl::retry_written(Subscription *subscription, WallMicros due) noexcept {
    if (due <= subscription->retry_due) {
        subscription->retry_due = due - 1;
        subscription->retry_uuid = Uuid{};
    }
    subscription->next_due = std::min(subscription->next_due, due);
    try {
        set_timer(subscription, std::min(std::max(subscription->next_due, subscription->paused_until),
                                         subscription->reread_at));
    } catch (const std::bad_alloc &) {
        subscription->unread = true; // the next look at the subscription finds it
    }
}

void Outbox::read_all_again() noexcept {
    finish_reads(false);
    for (auto &entry : impl_->subscriptions)
        impl_->reset_reading(entry.second.get());
    mark_all_dirty();
}

bool Outbox::has_unsent_to_check() const noexcept {
    return !impl_->recheck.empty();
}

size_t Outbox::unsent(Uuid *uuids, size_t capacity, int *attempts) noexcept {
    Impl &box = *impl_;
    size_t count = 0;
    while (!box.recheck.empty()) {
        Subscription *subscription = *box.recheck.begin();
        if (count > 0 && count + subscription->queue.size() > capacity)
            break;
        box.recheck.erase(box.recheck.begin());
        for (Item *item : subscription->queue)
            if (count < capacity) {
                if (attempts != nullptr)
                    attempts[count] = item->attempts;
                uuids[count++] = item->uuid;
            }
    }
    return count;
}

void Outbox::drop_unsent(const Uuid &uuid) noexcept {
    Impl &box = *impl_;
    auto place = box.items.find(uuid);
    if (place == box.items.end() || place->second->subscription == nullptr)
        return;
    Item *item = place->second.get();
    auto &queue = item->suspect ? box.suspect_queue : item->subscription->queue;
    auto position = std::find(queue.begin(), queue.end(), item);
    if (position == queue.end())
        return; // in flight already
    Subscription *subscription = item->subscription;
    queue.erase(position);
    box.acquit(*item);
    box.forget(item);
    try {
        // What was behind it may have waited for its body only.
        box.make_ready(subscription);
        box.make_hungry(subscription);
    } catch (const std::bad_alloc &) {
        // The next look at the subscription does it.
    }
}

} // namespace whisperer::core
