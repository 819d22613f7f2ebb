// Large payloads, which are loaded only when it is their turn.
#include "core/outbox_impl.hpp"

#include <new>

namespace whisperer::core {

// False: enough others are being loaded.
bool Outbox::Impl::ask_body(Item *item) noexcept {
    if (item->body_asked)
        return true;
    if (bodies_wanted.size() >= bodies_at_once)
        return false;
    bodies_wanted.push_back(item->uuid);
    item->body_asked = true;
    return true;
}

// All of them ask again; who does not get to it waits again. (Only the first one would not do: it may have
// been paused meanwhile, and none would come after it.)
void Outbox::Impl::end_body_line() noexcept {
    while (!body_line.empty()) {
        Subscription *subscription = body_line.front();
        subscription->in_body_line.leave(&body_line);
        make_ready(subscription);
    }
}

// What the shell took away with wanted_body() and did not bring, since its transaction failed.
void Outbox::Impl::ask_bodies_again() noexcept {
    bodies_wanted.clear();
    for (auto &entry : items)
        entry.second->body_asked = false;
    end_body_line();
    for (auto &entry : subscriptions)
        make_ready(entry.second.get());
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
    box.bodies_wanted.erase(box.bodies_wanted.begin());
    return true;
}

// An order has been served, and the next in the line may ask. Null: nobody waits for this body any more.
Item *Outbox::Impl::waiting_for_body(const Uuid &uuid) noexcept {
    end_body_line();
    auto place = items.find(uuid);
    if (place == items.end() || place->second->subscription == nullptr || !place->second->body_missing)
        return nullptr;
    place->second->body_asked = false;
    return place->second.get();
}

void Outbox::give_body(const Uuid &uuid, Slice payload, bool whole_body) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    Item *item = box.waiting_for_body(uuid);
    if (item == nullptr)
        return;
    try {
        item->payload.assign(payload.view());
        item->whole_body = whole_body;
        item->body_missing = false;
        box.queued_bytes += item->payload.size();
    } catch (const std::bad_alloc &) {
        box.short_of_memory = true; // still missing: it is asked for again
    }
    box.make_ready(item->subscription, true); // before the next bodies are loaded
}

void Outbox::body_lost(const Uuid &uuid) noexcept {
    const Guard guard(impl_->mutex);
    Impl &box = *impl_;
    Item *item = box.waiting_for_body(uuid);
    if (item == nullptr)
        return;
    item->body_lost = true;
    item->body_missing = false;
    box.make_ready(item->subscription, true);
}

void Outbox::body_gone(const Uuid &uuid) noexcept {
    const Guard guard(impl_->mutex);
    impl_->end_body_line();
    drop_unsent(uuid);
}

} // namespace whisperer::core
