// For the tests of the HTTP engine: a scripted server on a loopback port, and an owner that drives an engine.
#pragma once

#include "core/http_engine.hpp"
#include "core/resolver.hpp"

#include <arpa/inet.h>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace whisperer::core::test {

// One accepted connection, in a thread of its own, blocking.
class Peer {
  public:
    explicit Peer(int fd) : fd_(fd) {}

    // Reads one request with a Content-Length. False: the other side closed.
    bool read_request() {
        head.clear();
        body.clear();
        size_t end;
        while ((end = buffer_.find("\r\n\r\n")) == std::string::npos)
            if (!more())
                return false;
        head = buffer_.substr(0, end + 4);
        buffer_.erase(0, end + 4);
        const size_t at = head.find("Content-Length: ");
        const size_t length = at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
        while (buffer_.size() < length)
            if (!more())
                return false;
        body = buffer_.substr(0, length);
        buffer_.erase(0, length);
        return true;
    }

    bool send(const std::string &text) {
        size_t sent = 0;
        while (sent < text.size()) {
            const ssize_t n = ::send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
            if (n <= 0)
                return false;
            sent += static_cast<size_t>(n);
        }
        return true;
    }

    // Until the other side closes.
    void hang() {
        while (more())
            buffer_.clear();
    }

    void reset() {
        const linger hard{1, 0};
        setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }

    int fd() const { return fd_; }

    std::string head;
    std::string body;

  private:
    bool more() {
        char chunk[65536];
        const ssize_t n = recv(fd_, chunk, sizeof chunk, 0);
        if (n <= 0)
            return false;
        buffer_.append(chunk, static_cast<size_t>(n));
        return true;
    }

    int fd_;
    std::string buffer_;
};

class Server {
  public:
    using Script = std::function<void(Peer &)>;

    explicit Server(Script script, bool v6 = false) : script_(std::move(script)) {
        listen_ = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_storage address{};
        socklen_t size = sizeof(sockaddr_in);
        if (v6) {
            auto *in6 = reinterpret_cast<sockaddr_in6 *>(&address);
            in6->sin6_family = AF_INET6;
            in6->sin6_addr = in6addr_loopback;
            size = sizeof(sockaddr_in6);
        } else {
            auto *in = reinterpret_cast<sockaddr_in *>(&address);
            in->sin_family = AF_INET;
            in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        }
        auto *general = reinterpret_cast<sockaddr *>(&address);
        if (listen_ < 0 || bind(listen_, general, size) != 0 || listen(listen_, 1024) != 0 ||
            getsockname(listen_, general, &size) != 0)
            throw std::runtime_error("no loopback socket");
        port_ = ntohs(v6 ? reinterpret_cast<sockaddr_in6 *>(&address)->sin6_port
                         : reinterpret_cast<sockaddr_in *>(&address)->sin_port);
        acceptor_ = std::thread([this] { accept_all(); });
    }

    ~Server() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closing_ = true;
            for (int fd : fds_)
                if (fd >= 0)
                    shutdown(fd, SHUT_RDWR);
        }
        shutdown(listen_, SHUT_RDWR);
        acceptor_.join();
        for (std::thread &thread : threads_)
            thread.join();
        close(listen_);
    }

    int port() const { return port_; }
    int connections() const { return connections_; }
    std::string url(const std::string &host = "127.0.0.1", const std::string &path = "/") const {
        return "http://" + host + ":" + std::to_string(port_) + path;
    }

    std::atomic<int> requests{0};

  private:
    void accept_all() {
        for (;;) {
            const int fd = accept4(listen_, nullptr, nullptr, SOCK_CLOEXEC);
            if (fd < 0)
                return;
            const int on = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            const std::lock_guard<std::mutex> lock(mutex_);
            if (closing_) {
                close(fd);
                return;
            }
            connections_++;
            const size_t index = fds_.size();
            fds_.push_back(fd);
            threads_.emplace_back([this, fd, index] {
                Peer peer(fd);
                script_(peer);
                const std::lock_guard<std::mutex> done(mutex_);
                fds_[index] = -1;
                close(fd);
            });
        }
    }

    Script script_;
    int listen_ = -1;
    int port_ = 0;
    std::atomic<int> connections_{0};
    std::mutex mutex_;
    bool closing_ = false;
    std::vector<int> fds_;
    std::vector<std::thread> threads_;
    std::thread acceptor_;
};

inline std::string response(int status, const std::string &body, const std::string &headers = "") {
    return "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n" + headers + "\r\n" + body;
}

// Answers every request with its body.
inline Server::Script answer_all() {
    return [](Peer &peer) {
        while (peer.read_request())
            peer.send(response(200, peer.body));
    };
}

// Every name has these addresses.
inline LookupFunction fixed(std::vector<Address> addresses) {
    return [addresses](const std::string &) { return LookupResult{addresses, "", false}; };
}

inline Address v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    return {false, {a, b, c, d}};
}
inline Address v6_loopback() {
    return {true, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
}

inline AddressPolicy loopback_policy() {
    AddressPolicy policy{};
    policy.allowed_count = 2;
    policy.allowed[0] = {v4(127, 0, 0, 0), 8};
    policy.allowed[1] = {v6_loopback(), 128};
    return policy;
}

// A finished request, kept.
struct Outcome {
    uint64_t tag = 0;
    Failure failure = Failure::internal;
    int status = 0;
    std::string error, headers, retry_after, body;
    bool truncated = false;
    Micros elapsed = 0;
};

// Drives an engine on a clock that follows the real one and can be moved ahead.
class Owner {
  public:
    explicit Owner(LookupFunction lookup = nullptr) {
        settings.policy = &policy;
        settings.max_connections = 600;
        if (lookup)
            engine.reset(HttpEngine::create(
                settings, std::make_unique<Resolver>(std::move(lookup), Resolver::Limits()), now()));
        else
            engine.reset(HttpEngine::create(settings, now()));
        if (engine == nullptr)
            throw std::runtime_error("no engine");
    }

    Micros now() const {
        const auto real = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::microseconds>(real).count() + ahead;
    }

    bool post(uint64_t tag, const std::string &url, const std::string &body = "{}",
              const std::vector<std::string> &headers = {"Content-Type: application/json"}) {
        std::vector<Slice> lines;
        for (const std::string &line : headers)
            lines.push_back(slice(line));
        HttpRequest request{};
        request.tag = tag;
        request.url = slice(url);
        request.headers = lines.data();
        request.header_count = lines.size();
        request.body = slice(body);
        request.connect_timeout = connect_timeout;
        request.response_timeout = response_timeout;
        request.max_response_body = max_body;
        return engine->add(request, now());
    }

    // Waits for real until the engine wants to be stepped, at most for 10 ms, and steps it.
    void turn() {
        const int timeout = engine->timeout_ms(now());
        pollfd fd{engine->wait_fd(), POLLIN, 0};
        poll(&fd, 1, timeout < 0 || timeout > 10 ? 10 : timeout);
        engine->step(now());
        collect();
    }

    // Lets the time-out pass that the engine asked for, without waiting for it.
    void leap() {
        const int timeout = engine->timeout_ms(now());
        if (timeout > 0)
            ahead += timeout * Micros{1000};
        engine->step(now());
        collect();
    }

    // Turns until the condition holds; false after 20 s.
    bool until(const std::function<bool()> &condition) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (!condition()) {
            if (std::chrono::steady_clock::now() > end)
                return false;
            turn();
        }
        return true;
    }

    bool leap_until(const std::function<bool()> &condition) {
        for (int i = 0; i < 10000; i++) {
            if (condition())
                return true;
            leap();
        }
        return false;
    }

    std::function<bool()> all(size_t count) {
        return [this, count] { return done.size() >= count; };
    }

    // One request, from beginning to end.
    Outcome ask(const std::string &url, const std::string &body = "{}") {
        done.clear();
        if (!post(1, url, body))
            throw std::bad_alloc();
        until(all(1));
        return done.empty() ? Outcome() : done.front();
    }

    AddressPolicy policy = loopback_policy();
    EngineSettings settings{};
    Micros ahead = 0;
    Micros connect_timeout = 5000000;
    Micros response_timeout = 10000000;
    size_t max_body = 65536;
    std::unique_ptr<HttpEngine> engine;
    std::vector<Outcome> done;

  private:
    void collect() {
        while (const HttpResult *result = engine->peek_done()) {
            Outcome outcome;
            outcome.tag = result->tag;
            outcome.failure = result->failure;
            outcome.status = result->status;
            outcome.error = result->error.view();
            outcome.headers = result->headers.view();
            outcome.retry_after = result->retry_after.view();
            outcome.body = result->body.view();
            outcome.truncated = result->body_truncated;
            outcome.elapsed = result->elapsed;
            done.push_back(std::move(outcome));
            engine->pop_done();
        }
    }
};

// A lookup function's gate: look-ups wait in it until it is opened. Outlives the threads that wait in it.
class Gate {
  public:
    void open() {
        const std::lock_guard<std::mutex> lock(mutex_);
        open_ = true;
        changed_.notify_all();
    }
    void pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        entered++;
        changed_.wait(lock, [this] { return open_; });
    }
    std::atomic<int> entered{0};

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = false;
};

} // namespace whisperer::core::test
