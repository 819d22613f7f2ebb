// An owner of an HTTP engine for its fuzzers: posts, steps, and looks at every result. Time is the engine's
// injected clock, so that waiting for a time-out takes none.
#pragma once

#include "core/http_engine.hpp"
#include "core/retry_after.hpp"
#include "hostile_receiver.hpp"

#include <poll.h>

namespace whisperer::core::fuzz {

constexpr int most_steps = 20000;
constexpr Micros connect_timeout = 5000000;
constexpr Micros response_timeout = 10000000;

struct Plan {
    uint64_t requests;
    bool at_once;
    bool secure;
    bool http2; // that can be answered
    bool proxy;
    size_t max_body;
    bool configures; // in the midst
    int event_step;
};

inline bool one_line(std::string_view text) {
    for (char c : text)
        if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F)
            return false;
    return true;
}

class Owner {
  public:
    Owner(const Plan &plan, Receiver *receiver) : plan_(plan), receiver_(receiver) {
        policy_.allowed_count = 1;
        policy_.allowed[0].address.bytes = {127};
        policy_.allowed[0].prefix = 8;
        settings_.policy = &policy_;
        settings_.max_connections = 4;
        settings_.ca_file = slice(trusted());
        proxy_ = "http://127.0.0.1:" + std::to_string(port());
        if (plan.proxy)
            settings_.proxy = slice(proxy_);
        engine_.reset(HttpEngine::create(settings_, now_));
        require(engine_ != nullptr);
    }

    void run() {
        int step = 0;
        post();
        while (engine_->in_flight() > 0) {
            require(++step < most_steps); // it goes round and round
            if (step == plan_.event_step)
                interfere();
            const bool active = receiver_->serve();
            pollfd ready{engine_->wait_fd(), POLLIN, 0};
            if (!active && poll(&ready, 1, 0) == 0)
                wait();
            engine_->step(now_ += 5);
            collect();
        }
        require(posted_ == plan_.requests && ended_ == posted_);
        require(engine_->peek_done() == nullptr);
    }

  private:
    void post() {
        do {
            const std::string url = std::string(plan_.secure ? "https" : "http") +
                                    "://127.0.0.1:" + std::to_string(port()) + "/in";
            const Slice header = slice("Content-Type: application/json");
            HttpRequest request{};
            request.tag = ++posted_;
            request.url = slice(url);
            request.headers = &header;
            request.header_count = 1;
            request.body = slice(Connection::body);
            request.connect_timeout = connect_timeout;
            request.response_timeout = response_timeout;
            request.max_response_body = plan_.max_body;
            require(engine_->add(request, now_));
        } while (plan_.at_once && posted_ < plan_.requests);
    }

    // Nothing moves: the time passes that the engine allows.
    void wait() {
        const int timeout = engine_->timeout_ms(now_);
        require(timeout >= 0 && timeout <= 1000);
        now_ += timeout * Micros{1000};
    }

    void interfere() {
        if (plan_.configures) {
            settings_.max_connections = 3;
            require(engine_->configure(settings_));
        }
    }

    void collect() {
        while (const HttpResult *result = engine_->peek_done()) {
            check(*result);
            ended_++;
            engine_->pop_done();
            if (posted_ < plan_.requests && ended_ == posted_)
                post();
        }
    }

    void check(const HttpResult &result) {
        require(result.tag >= 1 && result.tag <= posted_ && (seen_ >> result.tag & 1) == 0);
        seen_ |= uint64_t{1} << result.tag;
        require(result.body.len <= plan_.max_body);
        require(!result.body_truncated || result.body.len == plan_.max_body);
        require(result.headers.len <= 2 * (64 << 10)); // received: 64 kB; a bare LF is kept as CRLF
        require(result.retry_after.empty() || (result.retry_after.data >= result.headers.data &&
                                               result.retry_after.data + result.retry_after.len <=
                                                   result.headers.data + result.headers.len));
        const int wait = parse_retry_after(result.retry_after, 1790000000);
        require(wait == -1 || (wait >= 1 && wait <= max_retry_after_seconds));
        require(one_line(result.error.view()));
        require(result.elapsed >= 0 && result.elapsed <= connect_timeout + response_timeout + 1500000);
        if (result.failure != Failure::none) {
            require(!result.error.empty() && result.failure != Failure::internal);
            return;
        }
        require(result.error.empty() && result.status >= 200 && result.status <= 999 &&
                (!plan_.secure || plan_.http2));
        // What the receiver said, it said to somebody who had asked.
        receiver_->serve();
        good_++;
        require(good_ <= receiver_->requests());
        require(plan_.http2 || good_ <= receiver_->answers()); // one of HTTP/2's may be for several
    }

    Plan plan_;
    Receiver *receiver_;
    AddressPolicy policy_{};
    EngineSettings settings_{};
    std::string proxy_;
    Micros now_ = 1000000;
    std::unique_ptr<HttpEngine> engine_;
    uint64_t posted_ = 0, ended_ = 0, seen_ = 0;
    size_t good_ = 0;
};

} // namespace whisperer::core::fuzz
