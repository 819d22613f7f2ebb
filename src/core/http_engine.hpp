// The HTTP engine: many requests at once over kept-alive connections, driven by whoever owns it.
//
// The engine never blocks, never reads a clock, never logs and starts no thread but those of its name
// resolver. The owner waits on wait_fd() (an epoll descriptor that becomes readable when a socket of the
// engine is ready) for at most timeout_ms(), then calls step(). One engine belongs to one thread.
//
// It is the transport only: it knows nothing of deliveries, signatures or retries.
#pragma once

#include "core/address_policy.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace whisperer::core {

class Resolver;

// Monotonic time in microseconds, from the owner's clock.
using Micros = int64_t;

// One POST. Everything in it is copied by add().
struct HttpRequest {
    uint64_t tag;         // the owner's name for it, given back in the result
    Slice url;            // http or https, already checked by check_url()
    const Slice *headers; // whole header lines, "Name: value", without line ends
    size_t header_count;
    Slice body;
    Micros connect_timeout;   // name lookup, connection and TLS handshake together
    Micros response_timeout;  // from the connection's being ready to the last byte of the body
    size_t max_response_body; // bytes of the body kept; what comes after is not read
};

// How an attempt ended. `none` says that a whole response came (or as much of it as is kept).
enum class Failure : uint8_t {
    none,
    refused_by_policy, // the address may not be dialled
    name_lookup,
    connect,
    tls,
    connect_timeout,
    response_timeout,
    cut_short, // the response ended before it was whole
    malformed, // what came is not HTTP, or its headers are larger than the engine takes
    proxy,     // the proxy refused or failed
    internal   // out of memory, or libcurl could not be used
};

// Valid until pop_done() or the next call that changes the engine.
struct HttpResult {
    uint64_t tag;
    Failure failure;
    int status;          // 0: no response
    Slice error;         // one line for an operator; empty when failure is none
    Slice headers;       // the final response's header lines, separated by CRLF, as received
    Slice retry_after;   // value of Retry-After, empty if absent
    Slice body;          // at most max_response_body bytes, as received
    bool body_truncated; // the response had more
    Micros elapsed;      // from add() to the end
};

struct EngineSettings {
    const AddressPolicy *policy; // copied
    Slice ca_file;               // empty: the system's store
    Slice proxy;                 // empty: none; http://host:port
    size_t max_connections;      // connections kept open at most
};

class HttpEngine {
  public:
    // Null when out of memory or when libcurl or epoll cannot be set up.
    static HttpEngine *create(const EngineSettings &settings, Micros now) noexcept;
    // The same with a resolver of the caller's, for tests.
    static HttpEngine *create(const EngineSettings &settings, std::unique_ptr<Resolver> resolver,
                              Micros now) noexcept;
    ~HttpEngine();
    HttpEngine(const HttpEngine &) = delete;
    HttpEngine &operator=(const HttpEngine &) = delete;

    // New settings, and certificates that have changed in their file, hold for requests added from now on;
    // idle connections made under the old ones are closed at once, busy ones when their request has ended.
    // False: out of memory, old settings stay.
    bool configure(const EngineSettings &settings) noexcept;

    // Takes a request. False: out of memory, nothing was taken.
    bool add(const HttpRequest &request, Micros now) noexcept;

    // A descriptor that polls readable when step() has something to do.
    int wait_fd() const noexcept;

    // How long the owner may wait before the next step(); -1: until wait_fd() is readable.
    int timeout_ms(Micros now) const noexcept;

    // Does what can be done without blocking: first reads every socket that is ready, then judges the
    // time-outs. Time in which the engine was not stepped although it wanted to be (a stalled owner) is not
    // counted against any receiver.
    void step(Micros now) noexcept;

    // The next finished request, or null; stays the same until pop_done().
    const HttpResult *peek_done() const noexcept;
    void pop_done() noexcept;

    // Requests taken and not yet popped as done.
    size_t in_flight() const noexcept;

  private:
    struct Impl;
    explicit HttpEngine(std::unique_ptr<Impl> impl) noexcept;
    std::unique_ptr<Impl> impl_;
};

} // namespace whisperer::core
