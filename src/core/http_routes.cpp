// From a request taken to a request under way: names, addresses, and the way through a proxy.
#include "core/http_engine_impl.hpp"

#include <algorithm>
#include <new>

namespace whisperer::core {

namespace {

constexpr size_t max_dial_attempts =
    4; // parts into which the connection's time is cut if there are many addresses
constexpr Micros shortest_dial = 1000; // so that trying again makes headway

} // namespace

void Engine::await(Transfer &transfer, const std::string &host) {
    std::string name = host; // whatever can fail comes first
    Transfer *&first = waiting_[host];
    transfer.awaited = std::move(name);
    transfer.previous = nullptr;
    transfer.next = first;
    if (first != nullptr)
        first->previous = &transfer;
    first = &transfer;
}

void Engine::stop_awaiting(Transfer &transfer) noexcept {
    if (transfer.awaited.empty())
        return;
    if (transfer.next != nullptr)
        transfer.next->previous = transfer.previous;
    if (transfer.previous != nullptr)
        transfer.previous->next = transfer.next;
    else if (const auto found = waiting_.find(transfer.awaited); found != waiting_.end()) {
        found->second = transfer.next;
        if (transfer.next == nullptr)
            waiting_.erase(found);
    }
    transfer.previous = transfer.next = nullptr;
    transfer.awaited.clear();
}

// Names have been looked up: those who waited for them go on.
void Engine::take_names() noexcept {
    for (const std::string &name : resolver_->collect(now_)) {
        auto found = waiting_.find(name);
        while (found != waiting_.end()) {
            Transfer &transfer = *found->second;
            stop_awaiting(transfer);
            try {
                start(transfer);
            } catch (const std::exception &) {
                fail(transfer, Failure::internal, "out of memory");
            }
            if (!transfer.awaited.empty() && transfer.awaited == name)
                break; // asked again already: its negative answer was too old
            found = waiting_.find(name);
        }
    }
}

// The addresses of a name; false when there are none yet (the transfer then waits) or none at all (it has
// then failed).
bool Engine::resolve(Transfer &transfer, const std::string &host, Resolver::Addresses *addresses,
                     Failure failure) {
    Resolver::Answer answer = resolver_->ask(host, now_);
    switch (answer.state) {
    case Resolver::State::ready:
        *addresses = std::move(answer.addresses);
        return true;
    case Resolver::State::failed:
        transfer.explain("name lookup of \"%s\" failed: %s", host.c_str(), answer.error.c_str());
        finish(transfer, failure);
        return false;
    case Resolver::State::pending:
        await(transfer, host);
        return false;
    }
    return false;
}

// Begins a transfer, or goes on where it waited for a name.
void Engine::start(Transfer &transfer) {
    const Generation &generation = *transfer.generation;
    Resolver::Addresses target;
    Resolver::Addresses proxy;
    if (!transfer.target.literal && !resolve(transfer, transfer.host, &target, Failure::name_lookup))
        return;
    if (!generation.proxy.empty() && !generation.proxy_parts.literal &&
        !resolve(transfer, generation.proxy_parts.host, &proxy, Failure::proxy))
        return;
    if (transfer.launched_at == 0)
        transfer.launched_at = now_;
    if (route(transfer, target, proxy))
        launch(transfer);
}

// Tells libcurl where to connect. False: nowhere, and the transfer has failed.
bool Engine::route(Transfer &transfer, const Resolver::Addresses &target, const Resolver::Addresses &proxy) {
    Generation &generation = *transfer.generation;
    const uint16_t port = transfer.target.port;
    transfer.resolve_list.data = transfer.connect_list.data = nullptr;
    transfer.pin = transfer.told = nullptr;
    Pin *told = nullptr; // whose addresses libcurl dials
    if (target != nullptr) {
        Pin &pin = generation.pin(transfer.host, port, target, false);
        if (pin.usable.empty()) {
            explain_refusal(transfer, pin.refused);
            finish(transfer, Failure::refused_by_policy);
            return false;
        }
        transfer.pin = &pin;
        told = generation.proxy.empty() ? &pin : nullptr;
    }
    if (!generation.proxy.empty()) {
        char address[64];
        if (target == nullptr) {
            Address literal{};
            if (!parse_address(transfer.target.host, &literal) ||
                judge(generation.policy, literal) != AddressVerdict::allowed) {
                explain_refusal(transfer, literal);
                finish(transfer, Failure::refused_by_policy);
                return false;
            }
            format_address(literal, address, sizeof address);
        } else {
            format_address(transfer.pin->usable.front(), address, sizeof address);
        }
        // The proxy gets the very address that was judged; Host and the TLS server name stay the URL's.
        transfer.connect_entry = std::string("::") + address + ':' + std::to_string(port);
        transfer.connect_list.data = transfer.connect_entry.data();
        if (proxy != nullptr)
            told = &generation.pin(generation.proxy_parts.host, generation.proxy_parts.port, proxy, true);
    }
    transfer.told = told;
    if (told != nullptr) {
        transfer.told_version = told->version;
        if (told->loaded != told->version) {
            transfer.resolve_entry = told->entry;
            transfer.resolve_list.data = transfer.resolve_entry.data();
        }
    }
    return true;
}

void Engine::launch(Transfer &transfer) {
    Generation &generation = *transfer.generation;
    transfer.phase = Phase::connect;
    if (!transfer.set_options()) {
        fail(transfer, Failure::internal, "libcurl refused an option: out of memory");
        return;
    }
    // libcurl dials the addresses of one family in turn and gives each half of what is left of *its* time,
    // which is without end here. So a silent address is left by the engine, for the next one.
    const size_t choices =
        transfer.pin != nullptr ? std::min(transfer.pin->usable.size(), max_dial_attempts) : 1;
    transfer.dial_version = transfer.pin != nullptr ? transfer.pin->version : 0;
    const Micros share = std::max(transfer.connect_timeout / static_cast<Micros>(choices), shortest_dial);
    transfer.wake = std::min(transfer.deadline, choices > 1 ? engine_time(now_) + share : transfer.deadline);
    deadlines_.moved(&transfer);
    const CURLMcode rc = curl_multi_add_handle(generation.multi, transfer.easy);
    if (rc != CURLM_OK) {
        fail(transfer, Failure::internal, curl_multi_strerror(rc));
        return;
    }
    transfer.attached = true;
}

// The address dialled gave no connection in its share of the time: puts it last, and tries again with the
// next.
void Engine::redial(Transfer &transfer) noexcept {
    detach(transfer);
    // Whatever comes of it: it may have to wait for its name again, whose answer has become too old.
    transfer.phase = Phase::lookup;
    transfer.wake = transfer.deadline;
    deadlines_.moved(&transfer);
    try {
        Pin &pin = *transfer.pin;
        if (pin.version == transfer.dial_version) // and not yet put last by another request
            pin.demote_first();
        start(transfer);
    } catch (const std::exception &) {
        fail(transfer, Failure::internal, "out of memory");
    }
}

} // namespace whisperer::core
