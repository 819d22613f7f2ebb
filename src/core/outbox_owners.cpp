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
}

void Outbox::Impl::leave_owner(Subscription *subscription) noexcept {
    Owner *owner = subscription->owner;
    if (owner == nullptr)
        return;
    subscription->owner = nullptr;
    owner->in_flight -= subscription->in_flight;
    if (--owner->subscriptions == 0)
        owners.erase(subscription->owner_id);
}

} // namespace whisperer::core
