// How many requests may be under way, and whose: nobody takes all slots.
#include "core/outbox_impl.hpp"

#include <algorithm>

namespace whisperer::core {

namespace {

// Of fewer slots than this none are kept back.
constexpr int fewest_divided = 32;

} // namespace

// The subscription's own limit takes precedence over the setting for all; the worker's holds for both.
int Outbox::Impl::most_in_flight(const Subscription &subscription) const noexcept {
    int own =
        subscription.max_in_flight > 0 ? subscription.max_in_flight : limits.max_in_flight_per_subscription;
    return std::max(1, std::min(own, limits.max_in_flight));
}

// In flight is what a crash would repeat: what is sent and not recorded yet. Results whose rows somebody has
// locked do not count, or that somebody could stop all.
int Outbox::Impl::slots_left() const noexcept {
    return limits.max_in_flight - static_cast<int>(requests + results.size() - tried_again);
}

// So many slots nobody of another standing takes while somebody of this one waits.
int Outbox::Impl::guaranteed(Standing standing) const noexcept {
    switch (standing) {
    case Standing::good:
        break; // the others' limits leave it enough
    case Standing::unknown:
    case Standing::failing:
        return limits.max_in_flight / 8;
    case Standing::hanging:
        return limits.max_in_flight / 16;
    }
    return 0;
}

int Outbox::Impl::promised_beside(Standing standing) const noexcept {
    int promised = 0;
    for (size_t i = 0; i < standings; i++)
        if (i != static_cast<size_t>(standing) && !ready[i].empty())
            promised += std::max(0, guaranteed(static_cast<Standing>(i)) - in_flight_by[i]);
    return promised;
}

bool Outbox::Impl::has_slot(Standing standing) const noexcept {
    int max = limits.max_in_flight;
    int left = slots_left();
    if (left <= 0)
        return false;
    int unknown = in_flight_by[static_cast<size_t>(Standing::unknown)];
    int failing = in_flight_by[static_cast<size_t>(Standing::failing)];
    int hanging = in_flight_by[static_cast<size_t>(Standing::hanging)];
    if (in_flight_by[static_cast<size_t>(standing)] < guaranteed(standing))
        return true;
    if (left <= promised_beside(standing))
        return false;
    switch (standing) {
    case Standing::good:
        return true;
    case Standing::unknown:
        return hanging + failing + unknown < std::max(1, max * 3 / 4);
    case Standing::failing:
        return failing < std::max(1, max / 4);
    case Standing::hanging:
        return hanging < std::max(1, max / 4);
    }
    return false;
}

// Whoever was good until now may hang from now on, with all that it has in flight. So the last eighth of the
// slots is for those that have less in flight than there are slots left. (What waits to be recorded hangs
// nowhere.)
bool Outbox::Impl::last_eighth() const noexcept {
    int max = limits.max_in_flight;
    return max >= fewest_divided && max - static_cast<int>(requests) <= max / 8;
}

bool Outbox::Impl::takes_too_many(int in_flight) const noexcept {
    return last_eighth() && in_flight > 0 && in_flight >= limits.max_in_flight - static_cast<int>(requests);
}

// False: end_crowd() makes it ready again. Something is in flight then, whose end comes.
bool Outbox::Impl::leaves_enough(Subscription *subscription) noexcept {
    if (!(subscriptions.size() > 1 && takes_too_many(subscription->in_flight)) &&
        !(owners.size() > 1 && takes_too_many(subscription->owner->in_flight)))
        return true;
    subscription->in_crowd.join(&crowd);
    return false;
}

// So many requests have ended. Within the last eighth as many may try as might find a slot, so that thousands
// that wait cost no more; beyond it all.
void Outbox::Impl::end_crowd(size_t ended) noexcept {
    for (size_t left = last_eighth() ? std::min(ended, crowd.size()) : crowd.size(); left > 0; left--) {
        Subscription *subscription = crowd.front();
        subscription->in_crowd.leave(&crowd);
        make_ready(subscription);
    }
}

void Outbox::Impl::set_standing(Subscription *subscription, Standing standing, bool stalled) noexcept {
    Standing before = subscription->effective();
    subscription->standing = standing;
    subscription->stalled = stalled;
    Standing after = subscription->effective();
    if (before == after)
        return;
    in_flight_by[static_cast<size_t>(before)] -= subscription->in_flight;
    in_flight_by[static_cast<size_t>(after)] += subscription->in_flight;
    make_ready(subscription);
}

} // namespace whisperer::core
