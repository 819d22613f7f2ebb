// Driving libcurl: sockets, timers, time-outs.
#include "core/http_engine_impl.hpp"

#include <algorithm>
#include <exception>
#include <new>

namespace whisperer::core {

namespace {

constexpr Micros stall_tolerance = 50 * 1000; // lateness below this is counted as the receiver's time
// A step, and what its owner does before it waits, may take this long; more is a stall. Counted, or no time
// would pass while a receiver sends so much that each step takes long, such as HTTP/2 PINGs without end.
constexpr Micros longest_work = 200 * 1000;
constexpr Micros longest_wait =
    1000 * 1000; // with requests under way, so that a stall is noticed to the second
// What a connection may say in a step while nobody hears of it: answers to the streams of others, which
// libcurl keeps.
constexpr size_t max_unheard_records = 8192;
constexpr size_t max_unheard_bytes = 8 << 20;
constexpr Micros trouble_wait = 100 * 1000; // until a refused registration of a socket is tried again
constexpr int late_rounds = 64;             // of reading ready sockets before a time-out is declared

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

int Engine::on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *) noexcept {
    uint32_t events = 0;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= EPOLLIN;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= EPOLLOUT;
    // The one that libcurl has in hand: with HTTP/2 it need not have an answer yet, while others had theirs.
    // Null: libcurl closes a connection by itself.
    Transfer *transfer = nullptr;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer);
    const bool may_speak = transfer != nullptr && transfer->target.https && !transfer->http1;
    static_cast<Generation *>(user)->engine->sockets_.want(fd, events, may_speak);
    return 0;
}

int Engine::on_timer(CURLM *, long timeout_ms, void *user) noexcept {
    Generation &generation = *static_cast<Generation *>(user);
    generation.timer_set = timeout_ms >= 0;
    generation.timer = generation.engine->now_ + timeout_ms * Micros{1000};
    return 0;
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
    if (sockets_.rests_until() >= 0)
        at_most(sockets_.rests_until() - now);
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

// Each turn ends a transfer, or puts off when it is looked at: redial() to its deadline at the latest, and
// launch() to a time that is to come.
void Engine::expire() noexcept {
    while (expired()) {
        Transfer &transfer = *deadlines_.top();
        if (transfer.phase == Phase::connect && engine_time(now_) < transfer.deadline) {
            redial(transfer);
            continue;
        }
        judge_timeout(transfer, now_);
        const bool unanswered = transfer.phase == Phase::response && transfer.status == 0;
        finish(transfer, transfer.failure);
        // With HTTP/2 that has ended the stream only, and the next request would be sent over the same
        // connection, though there may be nobody at its other end. If others wait for it, their time would
        // come, too.
        if (unanswered && transfer.target.https)
            sockets_.shut_down_silent(transfer.generation, transfer.begun);
    }
}

void Engine::begin_response(Transfer &transfer) noexcept {
    if (transfer.phase != Phase::connect) {
        // libcurl sends it again over a new connection, since the reused one turned out to be closed. It
        // allows a handle five of these in its whole life, and only curl_easy_reset() sets the count back: so
        // reset it before its next use.
        transfer.options_of = 0;
        return;
    }
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

bool Engine::floods(const void *connection, size_t bytes) noexcept {
    if (unheard_.connection != connection)
        unheard_ = {connection, 0, 0};
    unheard_.bytes += bytes;
    return ++unheard_.records > max_unheard_records || unheard_.bytes > max_unheard_bytes;
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
        const bool forgotten = code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY;
        if (forgotten && transfer->told != nullptr)
            transfer->told->loaded = 0; // what libcurl was told is told again with the next request
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
    allowance_ = longest_work;
    unheard_ = {};
    bool full = false;
    size_t count = 0;
    int round = 0;
    // One look is enough unless more is ready than fits, or somebody's time is up: then everything that has
    // already come is read before it is judged. Libcurl's timers, by which it starts new requests, come after
    // the look, which finds out what idle connections must not be used for them; and before the sockets are
    // read, since it wants to go on with what it has read of other HTTP/2 streams first (7.88 takes them for
    // broken else).
    do {
        count = sockets_.wait(ready_, &full, now);
        run_timers();
        harvest_all();
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

} // namespace whisperer::core
