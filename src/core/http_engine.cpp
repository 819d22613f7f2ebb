#include "core/http_engine_impl.hpp"

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>

namespace whisperer::core {

namespace {

constexpr Micros stall_tolerance = 50 * 1000; // lateness below this is counted as the receiver's time
constexpr Micros longest_wait =
    1000 * 1000; // with requests under way, so that a stall is noticed to the second
constexpr Micros trouble_wait = 100 * 1000; // until a refused registration of a socket is tried again
constexpr int late_rounds = 64;             // of reading ready sockets before a time-out is declared
constexpr size_t kept_handles = 256;        // idle handles kept at least
constexpr size_t max_pins = 8192;           // names told to one multi handle, which never forgets them

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

int socket_action(const SocketSet::Ready &ready) noexcept {
    int action = 0;
    if (ready.events & (EPOLLIN | EPOLLRDHUP))
        action |= CURL_CSELECT_IN;
    if (ready.events & EPOLLOUT)
        action |= CURL_CSELECT_OUT;
    if (ready.events & (EPOLLERR | EPOLLHUP))
        action |= CURL_CSELECT_ERR;
    return action;
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

int Engine::on_socket(CURL *, curl_socket_t fd, int what, void *user, void *) noexcept {
    uint32_t events = 0;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= EPOLLIN;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= EPOLLOUT;
    static_cast<Generation *>(user)->engine->sockets_.want(fd, events);
    return 0;
}

int Engine::on_timer(CURLM *, long timeout_ms, void *user) noexcept {
    Generation &generation = *static_cast<Generation *>(user);
    generation.timer_set = timeout_ms >= 0;
    generation.timer = generation.engine->now_ + timeout_ms * Micros{1000};
    return 0;
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

// ---- time

// Looks at how long the engine was left alone. What goes beyond what it allowed is nobody's time but the
// owner's, and moves all deadlines. `tended`: it is being stepped, or begins to wait.
void Engine::settle(Micros now, bool tended) noexcept {
    if (allowance_ >= 0 && !deadlines_.empty()) {
        const Micros excess = now - tended_at_ - allowance_;
        if (excess > stall_tolerance) {
            stalled_ += excess;
            tended = true;
        }
    }
    if (tended || deadlines_.empty()) {
        tended_at_ = now;
        allowance_ = 0;
    }
    now_ = now;
}

int Engine::timeout_ms(Micros now) noexcept {
    settle(now, true);
    Micros wait = -1;
    const auto at_most = [&](Micros limit) {
        limit = std::max<Micros>(limit, 0);
        wait = wait < 0 ? limit : std::min(wait, limit);
    };
    if (first_done_ != nullptr)
        at_most(0);
    if (!deadlines_.empty()) {
        at_most(deadlines_.top()->wake - engine_time(now));
        at_most(longest_wait);
    }
    for (const auto &generation : generations_)
        if (generation->timer_set)
            at_most(generation->timer - now);
    if (sockets_.troubled())
        at_most(trouble_wait);
    if (wait < 0) {
        allowance_ = -1;
        return -1;
    }
    const Micros ms = (wait + 999) / 1000;
    allowance_ = ms * 1000;
    return static_cast<int>(ms);
}

bool Engine::expired() const noexcept {
    return !deadlines_.empty() && deadlines_.top()->wake <= engine_time(now_);
}

void Engine::expire() noexcept {
    while (expired()) {
        Transfer &transfer = *deadlines_.top();
        if (transfer.phase == Phase::connect && engine_time(now_) < transfer.deadline) {
            redial(transfer);
            continue;
        }
        judge_timeout(transfer, now_);
        finish(transfer, transfer.failure);
    }
}

void Engine::begin_response(Transfer &transfer) noexcept {
    if (transfer.phase != Phase::connect)
        return; // libcurl sends it again over a new connection, since the reused one was closed
    transfer.phase = Phase::response;
    transfer.deadline = transfer.wake = engine_time(now_) + transfer.response_timeout;
    deadlines_.moved(&transfer);
}

// ---- stepping

void Engine::read_timer(Generation &generation) noexcept {
    // libcurl tells of its timer only when it changes; one that came too early for it would be lost.
    long timeout = -1;
    curl_multi_timeout(generation.multi, &timeout);
    on_timer(generation.multi, timeout, &generation);
}

void Engine::run_timers() noexcept {
    for (size_t i = 0; i < generations_.size(); i++) {
        Generation &generation = *generations_[i];
        if (!generation.timer_set || generation.timer > now_)
            continue;
        generation.timer_set = false;
        int running = 0;
        curl_multi_socket_action(generation.multi, CURL_SOCKET_TIMEOUT, 0, &running);
        if (!generation.timer_set)
            read_timer(generation);
    }
}

void Engine::harvest(Generation &generation) noexcept {
    int left = 0;
    while (CURLMsg *message = curl_multi_info_read(generation.multi, &left)) {
        if (message->msg != CURLMSG_DONE)
            continue;
        const CURLcode code = message->data.result;
        Transfer *transfer = nullptr;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
        judge_outcome(*transfer, code);
        if (transfer->failure == Failure::proxy && transfer->pin != nullptr &&
            transfer->pin->version == transfer->dial_version) {
            try {
                transfer->pin
                    ->demote_first(); // the proxy may not reach this one; the next attempt takes another
            } catch (const std::bad_alloc &) {
                transfer->pin->answer.reset(); // made anew with the next request
            }
        }
        finish(*transfer, transfer->failure);
    }
}

void Engine::harvest_all() noexcept {
    for (const auto &generation : generations_)
        harvest(*generation);
}

void Engine::step(Micros now) noexcept {
    settle(now, true);
    run_timers();
    harvest_all();
    bool full = false;
    size_t count = 0;
    int round = 0;
    // One look is enough unless more is ready than fits, or somebody's time is up: then everything that has
    // already come is read before it is judged.
    do {
        count = sockets_.wait(ready_, &full);
        for (size_t i = 0; i < count; i++) {
            if (ready_[i].owner == nullptr) {
                take_names();
                continue;
            }
            int running = 0;
            auto *generation = static_cast<Generation *>(ready_[i].owner);
            curl_multi_socket_action(generation->multi, ready_[i].fd, socket_action(ready_[i]), &running);
        }
        run_timers();
        harvest_all();
    } while ((full || (count > 0 && expired())) && ++round < late_rounds);
    expire();
    run_timers();
    harvest_all();
    drop_drained();
}

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

void Engine::abort(uint64_t tag) noexcept {
    for (Transfer *transfer : deadlines_.all()) {
        if (transfer->tag == tag) {
            fail(*transfer, Failure::aborted, "aborted");
            return;
        }
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
void HttpEngine::abort(uint64_t tag) noexcept {
    impl_->abort(tag);
}

} // namespace whisperer::core
