// Whose subscriptions there are, and what they have in flight together.
#include "core/outbox_impl.hpp"

namespace whisperer::core {

// Changes nothing when it throws.
void Outbox::Impl::set_owner(Subscription *subscription, uint32_t id) {
    if (subscription->owner != nullptr && subscription->owner_id == id)
        return;
    Owner &owner = owners[id];
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
    subscription->awaits_owner.leave(&owner->waiting);
    subscription->owner = nullptr;
    owner->in_flight -= subscription->in_flight;
    wake_waiting(owner); // perhaps for that
    if (--owner->subscriptions == 0)
        owners.erase(subscription->owner_id);
}

// A slot of this owner's is free again. When nothing of its is in flight nobody else would wake those that
// wait: then they all try.
void Outbox::Impl::wake_waiting(Owner *owner) noexcept {
    while (!owner->waiting.empty()) {
        Subscription *subscription = owner->waiting.front();
        subscription->awaits_owner.leave(&owner->waiting);
        make_ready(subscription);
        if (owner->in_flight > 0)
            return;
    }
}

} // namespace whisperer::core
