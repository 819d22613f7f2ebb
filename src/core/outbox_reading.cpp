// What to read next, and where reading has got to.
#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

// Ranges of transactions asked for at once for one subscription.
constexpr size_t ranges_at_once = 8;
// Subscriptions that one round of reading serves.
constexpr size_t subscriptions_at_once = 128;
// Rows that one round brings at most, new ones and retries each. (The more there may be, the
// smaller are the bodies that the shell brings along.)
constexpr int rows_at_once = 16384;

bool position_in(const Subscription &subscription, const XidRange &range) noexcept {
    return subscription.position_xid >= range.lo && subscription.position_xid < range.hi;
}

} // namespace

bool Outbox::set_snapshot(Xid xmin, Xid xmax, const Xid *running, size_t count) noexcept {
    const Guard guard(impl_->mutex);
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
        hungry.front()->in_hungry.leave(&hungry);
    }
}

size_t Outbox::plan_new(NewRead *reads, size_t capacity) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    size_t count = 0;
    int rows = 0;
    try {
        box.begin_planning();
        std::vector<XidRange> ranges;
        for (box.reached = 0; box.reached < box.planning.size(); box.reached++) {
            Subscription *subscription = box.planning[box.reached];
            if (!subscription->unread || !subscription->sendable)
                continue;
            int limit = box.wanted_new(subscription);
            if (limit == 0)
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
            PlannedNew plan{subscription, {0, 0}, take == left, limit, subscription->reading_serial};
            for (size_t i = 0; i < take; i++, ++first) {
                bool inside = position_in(*subscription, *first);
                reads[count++] = NewRead{subscription->id, inside ? subscription->position_xid : first->lo,
                                         first->hi, inside ? subscription->position_uuid : Uuid{}, limit};
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
    const Guard guard(impl_->mutex);
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
            plan.serial = subscription->reading_serial;
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

// Null if the delivery is in memory already: it was made due again while its attempt was under way, whose
// recording will say what becomes of it. Or a session has made an attempt meanwhile: then what is in memory
// is this row now, which is not read again, and is not to be dropped for the attempt (unsent()).
Item *Outbox::Impl::make_item(Subscription *subscription, const DeliveryRow &row) {
    auto [place, is_new] = items.try_emplace(row.uuid);
    if (!is_new) {
        Item &item = *place->second;
        item.attempts = std::max(item.attempts, row.attempts);
        if (item.attempted_at == 0 || item.asks_token)
            item.xid = row.xid;
        return nullptr;
    }
    try {
        auto item = std::make_unique<Item>();
        item->uuid = row.uuid;
        item->subscription = subscription;
        item->subscription_id = subscription->id;
        item->attempts = row.attempts;
        item->xid = row.xid;
        item->event_type.assign(row.event_type.view());
        item->payload.assign(row.payload.view());
        item->whole_body = row.whole_body;
        item->body_missing = row.body_missing;
        just_read.push_back(item.get()); // the last that may throw
        auto crash = crashed.find(row.uuid);
        if (crash != crashed.end()) {
            item->crashes = crash->second;
            item->suspect = item->crashes.alone > 0 || item->crashes.crashes > 1;
            crashed.erase(crash);
        }
        subscription->being_read++;
        queued_bytes += item->payload.size();
        place->second = std::move(item);
    } catch (...) {
        items.erase(place);
        throw;
    }
    return place->second.get();
}

bool Outbox::add_delivery(int64_t id, const DeliveryRow &row) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    try {
        Subscription *subscription = box.find(id);
        if (subscription != nullptr && box.make_item(subscription, row) != nullptr) {
            box.queue_read();
            box.make_ready(subscription);
        }
        return true;
    } catch (const std::bad_alloc &) {
        box.undo_reads();
        return false;
    }
}

bool Outbox::add_new(size_t read, const DeliveryRow &row, WallMicros now) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    PlannedNew &plan = box.planned_new[box.planned_by_read[read]];
    // Each of several ranges brings up to the whole limit. After the first row too many nothing more is
    // taken, of later ranges neither, or the position would pass rows that were not.
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
    const Guard guard(impl_->mutex);
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

void Outbox::Impl::finish_new(PlannedNew &plan) noexcept {
    Subscription *subscription = plan.subscription;
    if (subscription->reading_serial != plan.serial)
        return; // everything is read again, from the beginning
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
}

void Outbox::Impl::finish_retry(const PlannedRetry &read) noexcept {
    Subscription *subscription = read.subscription;
    if (subscription->reading_serial == read.serial) {
        subscription->retry_due = read.due;
        subscription->retry_uuid = read.uuid;
        subscription->next_due = read.next_due;
    }
    arm(subscription, planned_at);
}

// What was read may be sent from now on, except to whom nothing may be sent any more. Where memory runs out
// in the middle, undo_reads() takes out the rest.
void Outbox::Impl::queue_read() {
    for (Item *&item : just_read) {
        Subscription *subscription = item->subscription;
        if (subscription->sendable) {
            auto &queue = item->suspect ? suspect_queue : subscription->queue;
            queue.push_back(item);
            subscription->being_read--;
        } else {
            subscription->being_read--;
            remember_crashes(*item);
            forget(item);
        }
        item = nullptr;
    }
    just_read.clear();
}

// The rows go out of memory and are read again.
void Outbox::Impl::undo_reads() noexcept {
    for (Item *item : just_read)
        if (item != nullptr) {
            item->subscription->being_read--;
            remember_crashes(*item);
            forget(item);
        }
    just_read.clear();
    for (PlannedNew &plan : planned_new) {
        plan.subscription->read_to = nullptr;
        plan.subscription->position_xid = 0;
        plan.subscription->position_uuid = Uuid{};
        plan.subscription->unread = true;
    }
}

void Outbox::finish_reads(bool ok) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    try {
        if (ok) {
            box.adoptions.insert(box.adoptions.end(), box.adoptions_read.begin(), box.adoptions_read.end());
            box.queue_read();
        }
    } catch (const std::bad_alloc &) {
        ok = false;
    }
    if (ok) {
        for (PlannedNew &plan : box.planned_new)
            box.finish_new(plan);
        for (const PlannedRetry &plan : box.planned_retries)
            box.finish_retry(plan);
    } else
        box.undo_reads();
    std::rotate(box.planning.begin(), box.planning.begin() + static_cast<ptrdiff_t>(box.reached),
                box.planning.end());
    for (Subscription *subscription : box.planning) {
        box.make_ready(subscription); // for what is queued, also if not all that was read is
        box.make_hungry(subscription);
    }
    box.planning.clear();
    box.reached = 0;
    box.planned_new.clear();
    box.planned_by_read.clear();
    box.planned_retries.clear();
    box.adoptions_read.clear();
}

} // namespace whisperer::core
