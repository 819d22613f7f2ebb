// The parts of the HTTP engine. Internal to it.
#pragma once

#include "core/http_deadlines.hpp"
#include "core/http_engine.hpp"
#include "core/http_sockets.hpp"
#include "core/http_transfer.hpp"
#include "core/resolver.hpp"

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace whisperer::core {

class Engine {
  public:
    // Throws std::bad_alloc or std::runtime_error.
    Engine(const EngineSettings &settings, std::unique_ptr<Resolver> resolver, Micros now);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    // See HttpEngine. These throw std::bad_alloc.
    void configure(const EngineSettings &settings);
    void add(const HttpRequest &request, Micros now);

    int wait_fd() const noexcept { return sockets_.fd(); }
    int timeout_ms(Micros now) noexcept;
    void step(Micros now) noexcept;
    const HttpResult *peek_done() noexcept;
    void pop_done() noexcept;
    size_t in_flight() const noexcept { return in_flight_; }

    // For the callbacks.
    SocketSet &sockets() noexcept { return sockets_; }
    void begin_response(Transfer &transfer) noexcept;
    void heard() noexcept { unheard_ = {}; }
    bool floods(const void *connection, size_t bytes) noexcept;

  private:
    std::unique_ptr<Generation> make_generation(const EngineSettings &settings);
    std::unique_ptr<Generation> make_generation(const Generation &like);
    void open_multi(Generation &generation);
    void replace_generation(std::unique_ptr<Generation> fresh);
    void drop_drained() noexcept;

    Transfer *acquire();
    void release(Transfer *transfer) noexcept;
    bool resolve(Transfer &transfer, const std::string &host, Resolver::Addresses *addresses,
                 Failure failure);
    void start(Transfer &transfer);
    bool route(Transfer &transfer, const Resolver::Addresses &target, const Resolver::Addresses &proxy);
    void launch(Transfer &transfer);
    void redial(Transfer &transfer) noexcept;
    void detach(Transfer &transfer) noexcept;
    void finish(Transfer &transfer, Failure failure) noexcept;
    void fail(Transfer &transfer, Failure failure, const char *why) noexcept;
    void forget(Transfer &transfer) noexcept;

    void await(Transfer &transfer, const std::string &host);
    void stop_awaiting(Transfer &transfer) noexcept;
    void take_names() noexcept;

    Micros engine_time(Micros now) const noexcept { return now - stalled_; }
    void settle(Micros now, bool tended) noexcept;
    bool expired() const noexcept;
    void expire() noexcept;
    void run_timers() noexcept;
    void read_timer(Generation &generation) noexcept;
    void harvest(Generation &generation) noexcept;
    void harvest_all() noexcept;

    static int on_socket(CURL *easy, curl_socket_t fd, int what, void *generation, void *data) noexcept;
    static int on_timer(CURLM *multi, long timeout_ms, void *generation) noexcept;

    std::unique_ptr<Resolver> resolver_;
    SocketSet sockets_;
    std::array<SocketSet::Ready, SocketSet::batch> ready_;
    std::vector<std::unique_ptr<Generation>> generations_; // the last one is the current one
    uint64_t last_generation_ = 0;

    std::vector<std::unique_ptr<Transfer>> transfers_;
    std::vector<Transfer *> free_;                        // has room for all of transfers_
    DeadlineHeap<Transfer> deadlines_;                    // those taken and not ended
    std::unordered_map<std::string, Transfer *> waiting_; // for a name: the first of a list
    Transfer *first_done_ = nullptr;
    Transfer *last_done_ = nullptr;
    size_t in_flight_ = 0;
    HttpResult result_{};

    // What a connection has said in this step since a header or a piece of a body was for somebody.
    struct Unheard {
        const void *connection = nullptr;
        size_t records = 0;
        size_t bytes = 0;
    } unheard_;

    Micros now_;           // the owner's clock at the last call that told it
    Micros stalled_ = 0;   // time not counted against anybody
    Micros tended_at_;     // when the engine was last stepped, or began to wait
    Micros allowance_ = 0; // how long it may be left alone from then on; -1: without end
};

} // namespace whisperer::core
