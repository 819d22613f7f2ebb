// What changes in the table under the outbox: due times that are written, and deliveries cancelled after they
// were read.
#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

bool Outbox::wants_adoptions(WallMicros now) const noexcept {
    const Guard guard(impl_->mutex);
    return !impl_->adoptions.empty() && !moment_lasts(impl_->adoptions_again, now);
}

bool Outbox::next_adoption(Adoption *adoption, WallMicros now) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    if (!wants_adoptions(now))
        return false;
    *adoption = box.adoptions.front();
    box.adoptions.pop_front();
    return true;
}

void Outbox::adopted(const Adoption &adoption) noexcept {
    const Guard guard(impl_->mutex);
    Subscription *subscription = impl_->find(adoption.subscription);
    if (subscription != nullptr)
        impl_->retry_written(subscription, adoption.due);
}

void Outbox::adoption_failed(const Adoption &adoption, WallMicros again) noexcept {
    const Guard guard(impl_->mutex);
    impl_->adoptions_again = again;
    try {
        impl_->adoptions.push_back(adoption);
    } catch (const std::bad_alloc &) {
        Subscription *subscription = impl_->find(adoption.subscription);
        if (subscription == nullptr)
            return;
        impl_->reset_reading(subscription);
        impl_->make_hungry(subscription);
    }
}

// The worker wrote a due time. One that is behind the reader (a clock that went back, a countdown of nothing)
// draws it back.
void Outbox::Impl::retry_written(Subscription *subscription, WallMicros due) noexcept {
    if (due <= subscription->retry_due) {
        subscription->retry_due = due - 1;
        subscription->retry_uuid = Uuid{};
    }
    subscription->next_due = std::min(subscription->next_due, due);
    // Not later than it is: a rest or a pause may end before that.
    set_timer(subscription,
              std::min({subscription->timer, std::max(subscription->next_due, subscription->paused_until),
                        subscription->reread_at}));
}

void Outbox::read_all_again() noexcept {
    const Guard guard(impl_->mutex);
    finish_reads(false);
    impl_->ask_bodies_again();
    for (auto &entry : impl_->subscriptions)
        impl_->reset_reading(entry.second.get());
    mark_all_dirty();
}

bool Outbox::Impl::recalled() const noexcept {
    return recorder.recalls != nullptr && recorder.recalls(recorder.context) != handled_recalls;
}

void Outbox::recalls_handled(unsigned number) noexcept {
    const Guard guard(impl_->mutex);
    impl_->handled_recalls = number;
}

bool Outbox::has_unsent_to_check() const noexcept {
    const Guard guard(impl_->mutex);
    return !impl_->recheck.empty();
}

// What is more than can be looked at is read again.
void Outbox::Impl::trim(Subscription *subscription, size_t most) noexcept {
    if (subscription->queue.size() <= most)
        return;
    for (; subscription->queue.size() > most; subscription->queue.pop_back()) {
        remember_crashes(*subscription->queue.back());
        forget(subscription->queue.back());
    }
    reset_reading(subscription);
    make_hungry(subscription);
}

size_t Outbox::unsent(Uuid *uuids, size_t capacity, int *attempts, Xid *xids) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    size_t count = 0;
    auto add = [&](const Item *item) {
        if (count == capacity)
            return;
        if (attempts != nullptr)
            attempts[count] = item->attempts;
        if (xids != nullptr)
            xids[count] = item->xid;
        uuids[count++] = item->uuid;
    };
    while (!box.recheck.empty()) {
        Subscription *subscription = box.recheck.front();
        auto is_its = [subscription](const Item *item) { return item->subscription == subscription; };
        auto suspects =
            static_cast<size_t>(std::count_if(box.suspect_queue.begin(), box.suspect_queue.end(), is_its));
        if (count > 0 && count + subscription->queue.size() + suspects > capacity)
            break;
        box.trim(subscription, capacity - std::min(capacity, suspects));
        subscription->in_recheck.leave(&box.recheck);
        std::for_each(subscription->queue.begin(), subscription->queue.end(), add);
        for (const Item *item : box.suspect_queue)
            if (is_its(item))
                add(item);
    }
    return count;
}

void Outbox::drop_unsent(const Uuid &uuid) noexcept {
    const Guard guard(impl_->mutex);
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
    // What was behind it may have waited for its body only.
    box.make_ready(subscription);
    box.make_hungry(subscription);
}

} // namespace whisperer::core
