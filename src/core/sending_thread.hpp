// The thread of a delivery worker that sends: it steps the outbox's engine, takes its results and starts what
// is next, while the worker's own thread reads and records in transactions. A slow commit stops no request,
// and what libcurl and the signatures cost is spent beside what PostgreSQL costs.
//
// What it calls of the shell's (clocks, randomness, FlightRecorder) raises nothing, allocates nothing and
// takes no lock of PostgreSQL's; and all signals are blocked in it: they belong to the process's own thread.
#pragma once

#include "core/outbox.hpp"

#include <atomic>
#include <pthread.h>

namespace whisperer::core {

// Asked from the sending thread too.
struct Clocks {
    Micros (*monotonic)();
    WallMicros (*wall)();
};

// Why the shell may want to wake up.
enum News : unsigned {
    news_tables = 1,  // there is something to be looked at in the tables (Outbox::wants_tables)
    news_results = 2, // there are results to be recorded
    news_enough = 4   // so many that they should be recorded at once
};

class SendingThread {
  public:
    // Until stop() the thread calls start(), step() and timeout_ms() of the outbox, and nobody else does.
    // Null: no descriptor or no thread is to be had.
    static SendingThread *start(Outbox *box, const Clocks &clocks) noexcept;
    ~SendingThread();
    SendingThread(const SendingThread &) = delete;
    SendingThread &operator=(const SendingThread &) = delete;

    // Ends it, at the latest when the step under way has ended; no step blocks. What is in flight stays so.
    void stop() noexcept;

    // Polls readable when there is news that the shell wanted to hear; until hear().
    int wait_fd() const noexcept { return news_fd_; }
    void hear() noexcept;

    // Something may have changed, rows were read or results recorded: the thread looks. From now on it may
    // send, or may not, and says so when there is news of the kinds `wanted`. News of before this call is
    // told again.
    void wake(bool sending, unsigned wanted, size_t enough_results) noexcept;

  private:
    SendingThread(Outbox *box, const Clocks &clocks, int news_fd, int wake_fd) noexcept;
    bool run() noexcept;
    void loop() noexcept;
    void tell(bool sending) noexcept;

    Outbox *box_;
    Clocks clocks_;
    int news_fd_; // the shell waits for it
    int wake_fd_; // the thread waits for it
    pthread_t thread_{};
    bool running_ = false;
    std::atomic<bool> stopping_{false};
    std::atomic<bool> asked_{false}; // wake_fd_ was written
    std::atomic<bool> told_{false};  // news_fd_ was written
    std::atomic<bool> sending_{false};
    std::atomic<unsigned> wanted_{0};
    std::atomic<size_t> enough_{1};
};

} // namespace whisperer::core
