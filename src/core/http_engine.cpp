#include "core/http_engine_impl.hpp"

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>

namespace whisperer::core {

namespace {

constexpr size_t kept_handles = 256; // idle handles kept at least
constexpr size_t max_pins = 8192;    // names told to one multi handle, which never forgets them

// Not at load time: whoever loads the library may never send anything, or may fork first.
bool curl_ready() noexcept {
    static std::once_flag once;
    static bool ready = false;
    try {
        std::call_once(once, [] { ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK; });
    } catch (const std::exception &) {
        return false;
    }
    return ready;
}

} // namespace

Engine::Engine(const EngineSettings &settings, std::unique_ptr<Resolver> resolver, Micros now)
    : resolver_(std::move(resolver)), sockets_(resolver_->wake_fd()), now_(now), tended_at_(now) {
    replace_generation(make_generation(settings));
}

Engine::~Engine() {
    for (const auto &transfer : transfers_)
        detach(*transfer);
    transfers_.clear();   // handles first,
    generations_.clear(); // then what they were in, with its connections
}

// ---- handles

Transfer *Engine::acquire() {
    if (free_.empty()) {
        free_.reserve(transfers_.size() + 1);
        auto fresh = std::make_unique<Transfer>();
        fresh->engine = this;
        Transfer *transfer = fresh.get();
        transfers_.push_back(std::move(fresh));
        transfer->pool_index = transfers_.size() - 1;
        return transfer;
    }
    Transfer *transfer = free_.back();
    free_.pop_back();
    return transfer;
}

void Engine::release(Transfer *transfer) noexcept {
    transfer->clear();
    const size_t keep = std::max(kept_handles, generations_.back()->max_connections);
    if (free_.size() < keep) {
        free_.push_back(transfer); // has room
        return;
    }
    const size_t index = transfer->pool_index;
    std::swap(transfers_[index], transfers_.back());
    transfers_[index]->pool_index = index;
    transfers_.pop_back();
}

void Engine::detach(Transfer &transfer) noexcept {
    if (!transfer.attached)
        return;
    transfer.attached = false;
    // Fails only for a handle that is not in it.
    curl_multi_remove_handle(transfer.generation->multi, transfer.easy);
}

// Takes a transfer out of everything but the pool.
void Engine::forget(Transfer &transfer) noexcept {
    stop_awaiting(transfer);
    detach(transfer);
    deadlines_.remove(&transfer);
    transfer.generation->users--;
    in_flight_--;
}

void Engine::finish(Transfer &transfer, Failure failure) noexcept {
    stop_awaiting(transfer);
    detach(transfer);
    deadlines_.remove(&transfer);
    transfer.generation->users--;
    transfer.phase = Phase::done;
    transfer.failure = failure;
    transfer.elapsed = now_ - transfer.added_at;
    if (failure == Failure::none)
        transfer.error[0] = '\0';
    if (transfer.status < 200)
        transfer.status = 0; // only interim responses came
    if (last_done_ != nullptr)
        last_done_->next_done = &transfer;
    else
        first_done_ = &transfer;
    last_done_ = &transfer;
}

void Engine::fail(Transfer &transfer, Failure failure, const char *why) noexcept {
    transfer.explain("%s", why);
    finish(transfer, failure);
}

// ---- requests

void Engine::add(const HttpRequest &request, Micros now) {
    settle(now, false);
    Generation *generation = generations_.back().get();
    if (generation->pins.size() >= max_pins) {
        replace_generation(make_generation(*generation));
        generation = generations_.back().get();
    }
    Transfer *transfer = acquire();
    const char *problem = nullptr;
    try {
        problem = transfer->take(request);
        transfer->phase = Phase::lookup;
        transfer->added_at = now;
        transfer->deadline = transfer->wake = engine_time(now) + request.connect_timeout;
        deadlines_.insert(transfer);
    } catch (...) {
        transfer->url.clear();
        release(transfer);
        throw;
    }
    transfer->generation = generation;
    generation->users++;
    in_flight_++;
    if (problem != nullptr) {
        fail(*transfer, Failure::internal, problem);
        return;
    }
    try {
        start(*transfer);
    } catch (...) {
        forget(*transfer);
        release(transfer);
        throw;
    }
}

// ---- results

const HttpResult *Engine::peek_done() noexcept {
    if (first_done_ == nullptr)
        return nullptr;
    const Transfer &transfer = *first_done_;
    result_.tag = transfer.tag;
    result_.failure = transfer.failure;
    result_.status = transfer.status;
    result_.error = slice(transfer.error);
    result_.headers = slice(transfer.headers);
    result_.retry_after =
        slice(std::string_view(transfer.headers).substr(transfer.retry_after_at, transfer.retry_after_size));
    result_.body = slice(transfer.response_body);
    result_.body_truncated = transfer.truncated;
    result_.elapsed = transfer.elapsed;
    return &result_;
}

void Engine::pop_done() noexcept {
    Transfer *transfer = first_done_;
    if (transfer == nullptr)
        return;
    first_done_ = transfer->next_done;
    if (first_done_ == nullptr)
        last_done_ = nullptr;
    in_flight_--;
    release(transfer);
}

// ---- the public face

struct HttpEngine::Impl : Engine {
    using Engine::Engine;
};

HttpEngine::HttpEngine(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
HttpEngine::~HttpEngine() = default;

HttpEngine *HttpEngine::create(const EngineSettings &settings, Micros now) noexcept {
    try {
        return create(settings, std::make_unique<Resolver>(system_lookup, Resolver::Limits()), now);
    } catch (const std::exception &) {
        return nullptr;
    }
}

HttpEngine *HttpEngine::create(const EngineSettings &settings, std::unique_ptr<Resolver> resolver,
                               Micros now) noexcept {
    if (!curl_ready())
        return nullptr;
    try {
        return new HttpEngine(std::make_unique<Impl>(settings, std::move(resolver), now));
    } catch (const std::exception &) {
        return nullptr;
    }
}

bool HttpEngine::configure(const EngineSettings &settings) noexcept {
    try {
        impl_->configure(settings);
        return true;
    } catch (const std::exception &) {
        return false;
    }
}

bool HttpEngine::add(const HttpRequest &request, Micros now) noexcept {
    try {
        impl_->add(request, now);
        return true;
    } catch (const std::exception &) {
        return false;
    }
}

int HttpEngine::wait_fd() const noexcept {
    return impl_->wait_fd();
}
int HttpEngine::timeout_ms(Micros now) const noexcept {
    return impl_->timeout_ms(now);
}
void HttpEngine::step(Micros now) noexcept {
    impl_->step(now);
}
const HttpResult *HttpEngine::peek_done() const noexcept {
    return impl_->peek_done();
}
void HttpEngine::pop_done() noexcept {
    impl_->pop_done();
}
size_t HttpEngine::in_flight() const noexcept {
    return impl_->in_flight();
}

} // namespace whisperer::core
