// What is known of receivers: loaded, learnt, saved.
#include "core/outbox_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

// A receiver's state is saved at most this often, unless it must not be lost.
constexpr Micros state_interval = 1000 * 1000;

} // namespace

void Outbox::Impl::note_state(Subscription *subscription, bool urgent) noexcept {
    subscription->state_urgent = subscription->state_urgent || urgent;
    subscription->in_changed.join(&changed);
}

void Outbox::Impl::note_error(Subscription *subscription, Slice error) noexcept {
    try {
        subscription->last_error.assign(error.view());
    } catch (const std::bad_alloc &) {
        subscription->last_error.clear(); // only what is shown
    }
}

void Outbox::set_receiver_state(const ReceiverState &state) noexcept {
    const Guard guard(impl_->mutex);
    Subscription *subscription = impl_->find(state.subscription);
    if (subscription == nullptr)
        return;
    subscription->consecutive_failures = state.consecutive_failures;
    subscription->paused_until = std::max(subscription->paused_until, state.paused_until);
    subscription->last_status = state.last_status;
    if (state.consecutive_failures > 0) {
        subscription->window = 1;
        impl_->in_flight_by[static_cast<size_t>(subscription->effective())] -= subscription->in_flight;
        subscription->standing = state.last_status == 0 ? Standing::hanging : Standing::failing;
        impl_->in_flight_by[static_cast<size_t>(subscription->effective())] += subscription->in_flight;
    }
    impl_->note_error(subscription, state.last_error);
    if (state.paused_until > 0)
        impl_->set_timer(subscription, state.paused_until); // fires at once if it is over
}

bool Outbox::next_changed_state(ReceiverState *state, bool *deactivate, Micros now) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    for (size_t left = box.changed.size(); left > 0; left--) {
        Subscription *subscription = box.changed.front();
        if (!subscription->state_urgent && now != at_once &&
            now - subscription->state_given < state_interval) {
            box.changed.splice(box.changed.end(), box.changed, box.changed.begin());
            continue;
        }
        try {
            box.given_error = subscription->last_error;
        } catch (const std::bad_alloc &) {
            return false; // later
        }
        subscription->in_changed.leave(&box.changed);
        subscription->state_urgent = false;
        if (now != at_once)
            subscription->state_given = now;
        *state = ReceiverState{subscription->id, subscription->consecutive_failures,
                               subscription->paused_until, subscription->last_status, slice(box.given_error)};
        *deactivate = subscription->deactivate;
        subscription->deactivate = false;
        return true;
    }
    return false;
}

void Outbox::state_not_saved(int64_t id, bool deactivate) noexcept {
    const Guard guard(impl_->mutex);
    Subscription *subscription = impl_->find(id);
    if (subscription == nullptr)
        return;
    subscription->deactivate = subscription->deactivate || deactivate;
    impl_->note_state(subscription, false);
}

bool Outbox::has_changed_states() const noexcept {
    const Guard guard(impl_->mutex);
    return !impl_->changed.empty();
}

void Outbox::learn_elsewhere(const ReceiverState &state, bool deactivate) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    Subscription *subscription = box.find(state.subscription);
    if (subscription == nullptr)
        return;
    subscription->consecutive_failures =
        state.consecutive_failures > 0 ? subscription->consecutive_failures + 1 : 0;
    subscription->last_status = state.last_status;
    if (deactivate)
        box.deactivate(subscription);
    bool longer = state.paused_until > subscription->paused_until;
    if (longer)
        subscription->paused_until = state.paused_until;
    box.note_error(subscription, state.last_error);
    box.note_state(subscription, longer || deactivate);
    if (longer)
        box.set_timer(subscription, std::min(subscription->paused_until, subscription->reread_at));
}

} // namespace whisperer::core
