// Name look-ups that never hold up their caller.
//
// getaddrinfo() has no time-out: a silent name server holds it for many seconds. So each look-up runs in a
// thread of a bounded pool, one at a time per name, and the caller asks again when wake_fd() has become
// readable. Answers are kept for a while (getaddrinfo() does not tell a record's time to live), and an old
// one serves while a new one is fetched.
//
// One Resolver belongs to one thread; only its pool's threads run elsewhere. They have all signals blocked,
// are detached, and touch nothing but heap memory which they share, so neither destroying the Resolver nor
// leaving the process waits for a look-up that hangs.
//
// A name whose name server did not answer last time is doubtful: such names share a part of the threads, so
// that however many of them hang there are threads for the others.
#pragma once

#include "core/address_policy.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace whisperer::core {

// What a look-up found: addresses in the order of preference, or why there are none.
struct LookupResult {
    std::vector<Address> addresses;
    std::string error;      // empty when there are addresses
    bool temporary = false; // the error says nothing about the name: no name server answered
};

// Looks one name up, blocking, in a thread of the pool.
using LookupFunction = std::function<LookupResult(const std::string &name)>;

// The system's own: getaddrinfo() for stream sockets of either family.
LookupResult system_lookup(const std::string &name);

class Resolver {
  public:
    using Addresses = std::shared_ptr<const std::vector<Address>>;

    struct Limits {
        size_t threads = 256;            // look-ups under way at once; more names wait in a queue
        size_t doubtful = 64;            // of them for doubtful names
        size_t names = 10000;            // names remembered
        int64_t fresh = 60 * 1000000LL;  // microseconds for which an answer is not asked again
        int64_t stale = 600 * 1000000LL; // and for which an old one may serve while it is asked again
        int64_t negative = 1000000;      // and for which a failure is remembered
    };

    enum class State : uint8_t { ready, failed, pending };

    struct Answer {
        State state;
        Addresses addresses; // when ready; the same pointer as long as the answer is the same
        std::string error;   // when failed
    };

    // Throws std::bad_alloc, or std::runtime_error when there is no descriptor to be had.
    Resolver(LookupFunction lookup, const Limits &limits);
    ~Resolver();
    Resolver(const Resolver &) = delete;
    Resolver &operator=(const Resolver &) = delete;

    // Becomes readable when collect() has something to give.
    int wake_fd() const noexcept;

    // The addresses of a name as known at `now` (microseconds, monotonic). When pending, a look-up is under
    // way or queued; ask again when collect() has named it. Throws std::bad_alloc.
    Answer ask(const std::string &name, int64_t now);

    // Takes in the look-ups that have ended and returns their names; for what there is no memory, wake_fd()
    // stays readable.
    std::vector<std::string> collect(int64_t now) noexcept;

    // Threads of the pool now, busy or idle. For tests and for a look from outside.
    size_t threads() const;

  private:
    struct Shared;
    struct Entry {
        Addresses addresses;
        int64_t answered_at = 0;
        std::string error;
        int64_t failed_at = 0;
        bool asked = false;    // a look-up is queued or under way
        bool doubtful = false; // the last one got no answer from a name server
    };

    bool start(const std::string &name, bool doubtful, std::string &error);
    void make_room(int64_t now);
    static void remember(Entry &entry, LookupResult &result, int64_t now);
    static void *thread_main(void *argument);
    static void work(Shared &shared) noexcept;

    Limits limits_;
    std::shared_ptr<Shared> shared_;
    std::unordered_map<std::string, Entry> entries_;
};

} // namespace whisperer::core
