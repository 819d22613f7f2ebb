// Large payloads, which are loaded only when it is their turn.
#include "core/outbox_impl.hpp"

#include <new>

namespace whisperer::core {

namespace {

// Bodies on their way from the table at once: what bounds the memory.
constexpr size_t bodies_at_once = 4;

} // namespace

// False: enough others are being loaded.
bool Outbox::Impl::ask_body(Item *item) {
    if (item->body_asked)
        return true;
    if (bodies_wanted.size() >= bodies_at_once)
        return false;
    bodies_wanted.push_back(item->uuid);
    item->body_asked = true;
    return true;
}

// Its turn to ask comes with the next body, and nobody's turn to send waits for it.
void Outbox::Impl::await_body(Subscription *subscription) {
    if (subscription->in_body_line)
        return;
    body_line.push_back(subscription);
    subscription->in_body_line = true;
}

// All of them ask again; who does not get to it waits again. (Only the first one would not do: it may have
// been paused meanwhile, and none would come after it.)
void Outbox::Impl::end_body_line() {
    while (!body_line.empty()) {
        make_ready(body_line.front());
        body_line.front()->in_body_line = false;
        body_line.pop_front();
    }
}

// What the shell took away with wanted_body() and did not bring, since its transaction failed.
void Outbox::Impl::ask_bodies_again() noexcept {
    bodies_wanted.clear();
    for (auto &entry : items)
        entry.second->body_asked = false;
    try {
        end_body_line();
        for (auto &entry : subscriptions)
            make_ready(entry.second.get());
    } catch (const std::bad_alloc &) {
        // They are made ready when something is read for them.
    }
}

bool Outbox::wants_bodies() const noexcept {
    const Guard guard(impl_->mutex);
    return !impl_->bodies_wanted.empty();
}

bool Outbox::wanted_body(Uuid *uuid) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    if (box.bodies_wanted.empty())
        return false;
    *uuid = box.bodies_wanted.front();
    box.bodies_wanted.pop_front();
    return true;
}

void Outbox::give_body(const Uuid &uuid, Slice payload, bool whole_body) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    try {
        auto place = box.items.find(uuid);
        if (place != box.items.end() && place->second->subscription != nullptr &&
            place->second->body_missing) {
            Item *item = place->second.get();
            item->body_asked = false;
            item->payload.assign(payload.view());
            item->whole_body = whole_body;
            item->body_missing = false;
            box.queued_bytes += item->payload.size();
            box.make_ready(item->subscription, true); // before the next bodies are loaded
        }
        box.end_body_line();
    } catch (const std::bad_alloc &) {
        // Still missing: it is asked for again.
    }
}

void Outbox::body_gone(const Uuid &uuid) noexcept {
    const Guard guard(impl_->mutex);
    drop_unsent(uuid);
    try {
        impl_->end_body_line();
    } catch (const std::bad_alloc &) {
        // With the next body.
    }
}

} // namespace whisperer::core
