#include "core/resolver.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <list>
#include <mutex>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace whisperer::core {

namespace {

constexpr size_t max_addresses = 16;       // of one name; what a client tries within one time-out
constexpr size_t thread_stack = 512 << 10; // name service modules want room, but 64 default stacks are much
constexpr auto idle_life = std::chrono::seconds(10);

bool same(const Address &a, const Address &b) noexcept {
    return a.v6 == b.v6 && std::memcmp(a.bytes.data(), b.bytes.data(), a.v6 ? 16 : 4) == 0;
}

} // namespace

LookupResult system_lookup(const std::string &name) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo *list = nullptr;
    LookupResult result;
    const int rc = getaddrinfo(name.c_str(), nullptr, &hints, &list);
    if (rc != 0) {
        result.error = gai_strerror(rc);
        result.temporary = rc == EAI_AGAIN || rc == EAI_SYSTEM || rc == EAI_MEMORY;
        return result;
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo *)> owner(list, freeaddrinfo);
    for (const addrinfo *at = list; at != nullptr && result.addresses.size() < max_addresses;
         at = at->ai_next) {
        Address address{};
        if (at->ai_family == AF_INET) {
            std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in *>(at->ai_addr)->sin_addr,
                        4);
        } else if (at->ai_family == AF_INET6) {
            address.v6 = true;
            std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in6 *>(at->ai_addr)->sin6_addr,
                        16);
        } else {
            continue;
        }
        const auto known = [&](const Address &other) { return same(address, other); };
        if (std::none_of(result.addresses.begin(), result.addresses.end(), known))
            result.addresses.push_back(address);
    }
    if (result.addresses.empty())
        result.error = "the name has no IPv4 or IPv6 address";
    return result;
}

// Lives as long as the Resolver or any thread of the pool.
struct Resolver::Shared {
    struct Job {
        std::string name;
        bool doubtful;
        LookupResult result;
    };

    LookupFunction lookup;
    size_t max_doubtful = 0;
    int wake = -1;
    std::mutex mutex;
    std::condition_variable work_or_close;
    // Guarded by the mutex.
    std::list<Job> queue;
    std::list<Job> doubtful; // queued, of doubtful names
    size_t doubtful_running = 0;
    std::list<Job> finished;
    size_t threads = 0;
    size_t idle = 0;
    bool closed = false;

    // How many of those queued a free thread could take.
    size_t ready() const {
        const size_t room = doubtful_running < max_doubtful ? max_doubtful - doubtful_running : 0;
        return queue.size() + std::min(doubtful.size(), room);
    }

    // There is one that is ready.
    void take(std::list<Job> &job) {
        std::list<Job> &from = queue.empty() ? doubtful : queue;
        job.splice(job.begin(), from, from.begin());
        doubtful_running += job.front().doubtful ? 1 : 0;
    }

    // Can fail only when the counter is full, and then the descriptor is readable already.
    void ring() const noexcept {
        const uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = write(wake, &one, sizeof one);
    }

    ~Shared() {
        if (wake >= 0)
            close(wake);
    }
};

Resolver::Resolver(LookupFunction lookup, const Limits &limits)
    : limits_(limits), shared_(std::make_shared<Shared>()) {
    shared_->lookup = std::move(lookup);
    shared_->max_doubtful = limits.doubtful;
    shared_->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (shared_->wake < 0)
        throw std::runtime_error("eventfd failed");
}

Resolver::~Resolver() {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->closed = true;
    shared_->queue.clear();
    shared_->doubtful.clear();
    shared_->work_or_close.notify_all();
}

int Resolver::wake_fd() const noexcept {
    return shared_->wake;
}

size_t Resolver::threads() const {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    return shared_->threads;
}

// One thread of the pool: takes names until there have been none for a while. Allocates nothing but in the
// look-up: a result travels in the list node made for its name, so that a name once asked for is always
// answered.
void Resolver::work(Shared &shared) noexcept {
    std::unique_lock<std::mutex> lock(shared.mutex);
    for (;;) {
        shared.idle++;
        const bool woken = shared.work_or_close.wait_for(lock, idle_life,
                                                         [&] { return shared.closed || shared.ready() > 0; });
        shared.idle--;
        if (!woken || shared.closed)
            break;
        std::list<Shared::Job> job;
        shared.take(job);
        lock.unlock();
        LookupResult &result = job.front().result;
        try {
            result = shared.lookup(job.front().name);
        } catch (...) {
            result.addresses.clear();
            result.error = "out of memory"; // short enough to need none
            result.temporary = true;
        }
        lock.lock();
        if (shared.closed)
            break;
        shared.doubtful_running -= job.front().doubtful ? 1 : 0;
        shared.finished.splice(shared.finished.end(), job);
        shared.ring();
    }
    shared.threads--;
}

void *Resolver::thread_main(void *argument) {
    const std::unique_ptr<std::shared_ptr<Shared>> own(static_cast<std::shared_ptr<Shared> *>(argument));
    work(**own);
    return nullptr;
}

// Queues a name and sees to it that there is a thread for it.
bool Resolver::start(const std::string &name, bool doubtful, std::string &error) {
    auto own = std::make_unique<std::shared_ptr<Shared>>(shared_);
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    std::list<Shared::Job> &queue = doubtful ? shared_->doubtful : shared_->queue;
    queue.push_back({name, doubtful, {}});
    if (shared_->idle >= shared_->ready()) {
        shared_->work_or_close.notify_one();
        return true;
    }
    if (shared_->threads >= limits_.threads)
        return true; // waits for one to become free

    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, thread_stack);
    // Signals belong to the process's own thread: a handler must never run in one of these.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const int rc = pthread_create(&thread, &attributes, thread_main, own.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (rc == 0) {
        static_cast<void>(own.release()); // the thread's now
        shared_->threads++;
        return true;
    }
    if (shared_->threads > 0)
        return true; // those that exist will come to it
    queue.pop_back();
    error = std::string("no thread for the name lookup could be started: ") + std::strerror(rc);
    return false;
}

// Keeps the number of remembered names bounded: first those nobody could use any more, then any.
void Resolver::make_room(int64_t now) {
    if (entries_.size() < limits_.names)
        return;
    for (bool any : {false, true}) {
        for (auto it = entries_.begin(); it != entries_.end();) {
            const bool old = now - it->second.answered_at > limits_.fresh;
            it = !it->second.asked && (any || old) ? entries_.erase(it) : std::next(it);
        }
        if (entries_.size() < limits_.names)
            return;
    }
}

Resolver::Answer Resolver::ask(const std::string &name, int64_t now) {
    auto found = entries_.find(name);
    if (found == entries_.end()) {
        make_room(now);
        found = entries_.try_emplace(name).first;
    }
    Entry &entry = found->second;
    const int64_t age = now - entry.answered_at;
    const bool have = entry.addresses != nullptr && age <= limits_.stale;
    if (have && age <= limits_.fresh)
        return {State::ready, entry.addresses, {}};
    const bool failed = !entry.error.empty() && now - entry.failed_at <= limits_.negative;
    if (!entry.asked && !failed) {
        std::string error;
        if (!start(name, entry.doubtful, error)) {
            entry.error = error;
            entry.failed_at = now;
            return have ? Answer{State::ready, entry.addresses, {}} : Answer{State::failed, nullptr, error};
        }
        entry.asked = true;
    }
    if (have)
        return {State::ready, entry.addresses, {}};
    if (failed)
        return {State::failed, nullptr, entry.error};
    return {State::pending, nullptr, {}};
}

// Takes what was found into the memory of names. Throws std::bad_alloc, and then nothing has changed.
void Resolver::remember(Entry &entry, LookupResult &result, int64_t now) {
    const auto &fresh = result.addresses;
    const bool unchanged = entry.addresses != nullptr && entry.addresses->size() == fresh.size() &&
                           std::equal(fresh.begin(), fresh.end(), entry.addresses->begin(), same);
    if (!fresh.empty()) {
        if (!unchanged)
            entry.addresses = std::make_shared<const std::vector<Address>>(fresh);
        entry.answered_at = now;
        entry.error.clear();
    } else {
        // A name that is gone is gone; when only the name server is, the old answer goes on serving.
        if (!result.temporary)
            entry.addresses.reset();
        if (result.error.empty())
            result.error = "no address"; // short enough to need no memory
        entry.error.swap(result.error);
        entry.failed_at = now;
    }
    entry.asked = false;
    entry.doubtful = result.temporary;
}

// Where memory runs out, the rest stays finished, and is collected the next time: a name that counted as
// asked for ever would never be asked again.
std::vector<std::string> Resolver::collect(int64_t now) noexcept {
    uint64_t count;
    // Nothing to read is no error: the results are looked at in any case.
    if (read(shared_->wake, &count, sizeof count) < 0)
        count = 0;
    std::list<Shared::Job> finished;
    {
        const std::lock_guard<std::mutex> lock(shared_->mutex);
        finished.swap(shared_->finished);
    }
    std::vector<std::string> names;
    try {
        names.reserve(finished.size());
        while (!finished.empty()) {
            Shared::Job &done = finished.front();
            remember(entries_[done.name], done.result, now); // it is there
            names.push_back(std::move(done.name));
            finished.pop_front();
        }
    } catch (const std::bad_alloc &) {
        const std::lock_guard<std::mutex> lock(shared_->mutex);
        shared_->finished.splice(shared_->finished.begin(), finished);
        shared_->ring();
    }
    return names;
}

} // namespace whisperer::core
