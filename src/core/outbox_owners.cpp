// Whose subscriptions there are, and what they have in flight together.
#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

void Outbox::Impl::set_owner(Subscription *subscription, uint32_t id) {
    if (subscription->owner != nullptr && subscription->owner_id == id)
        return;
    Owner &owner = owners[id]; // whatever can fail comes first
    leave_owner(subscription);
    subscription->owner_id = id;
    subscription->owner = &owner;
    owner.subscriptions++;
    owner.in_flight += subscription->in_flight;
    make_ready(subscription); // it may have waited for the last one
}

void Outbox::Impl::leave_owner(Subscription *subscription) noexcept {
    Owner *owner = subscription->owner;
    if (owner == nullptr)
        return;
    if (subscription->awaits_owner)
        owner->waiting.erase(std::find(owner->waiting.begin(), owner->waiting.end(), subscription));
    subscription->awaits_owner = false;
    subscription->owner = nullptr;
    owner->in_flight -= subscription->in_flight;
    wake_waiting(owner); // perhaps for that
    if (--owner->subscriptions == 0)
        owners.erase(subscription->owner_id);
}

void Outbox::Impl::await_owner(Subscription *subscription) {
    if (subscription->awaits_owner)
        return;
    subscription->owner->waiting.push_back(subscription);
    subscription->awaits_owner = true;
}

// A slot of this owner's is free again. When nothing of its is in flight nobody else would wake those that
// wait: then they all try.
void Outbox::Impl::wake_waiting(Owner *owner) noexcept {
    try {
        do {
            if (owner->waiting.empty())
                return;
            Subscription *subscription = owner->waiting.front();
            make_ready(subscription);
            subscription->awaits_owner = false;
            owner->waiting.pop_front();
        } while (owner->in_flight == 0);
    } catch (const std::bad_alloc &) {
        // They are made ready when something is read for them.
    }
}

} // namespace whisperer::core
