// Whatever name servers answer, and in whatever order somebody asks: an answer is what was found last, no
// name is forgotten while it is being looked up, and the number of threads stays bounded.
#include "core/resolver.hpp"
#include "fuzz.hpp"

#include <cerrno>
#include <map>
#include <mutex>
#include <poll.h>
#include <set>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

constexpr const char *names[] = {"a.example", "b.example", "c.example", "d.example"};

// What a look-up finds, told before it is asked.
struct NameServer {
    std::mutex mutex;
    std::map<std::string, LookupResult> answers;
};

LookupResult make_answer(uint8_t kind) {
    LookupResult result;
    result.addresses.resize(kind % 4);
    for (size_t i = 0; i < result.addresses.size(); i++)
        result.addresses[i].bytes = {10, 0, kind, static_cast<uint8_t>(i)};
    if (kind % 4 == 0 && kind % 8 != 0)
        result.error = "no such name";
    result.temporary = kind % 16 == 12;
    return result;
}

bool same(const std::vector<Address> &a, const std::vector<Address> &b) {
    if (a.size() != b.size())
        return false;
    for (size_t i = 0; i < a.size(); i++)
        if (a[i].v6 != b[i].v6 || a[i].bytes != b[i].bytes)
            return false;
    return true;
}

class Run {
  public:
    explicit Run(Input &input) : input_(input), server_(std::make_shared<NameServer>()) {
        limits_.threads = 1 + input.byte() % 3;
        limits_.names = 1 + input.byte() % 4;
        limits_.fresh = 100;
        limits_.stale = 500;
        limits_.negative = 10;
        const auto server = server_;
        resolver_ = std::make_unique<Resolver>(
            [server](const std::string &name) {
                const std::lock_guard<std::mutex> lock(server->mutex);
                return server->answers[name];
            },
            limits_);
    }

    void all() {
        while (!input_.empty()) {
            now_ += input_.byte();
            const std::string name = names[input_.byte() % 4];
            answer(name);
            ask(name);
            require(resolver_->threads() <= limits_.threads);
            if (input_.byte() % 2 == 0)
                collect();
        }
        while (!asked_.empty())
            collect();
    }

  private:
    // Only while nobody looks it up, so that it is known what will be found.
    void answer(const std::string &name) {
        const uint8_t kind = input_.byte();
        if (asked_.count(name) != 0)
            return;
        const std::lock_guard<std::mutex> lock(server_->mutex);
        server_->answers[name] = make_answer(kind);
    }

    LookupResult planned(const std::string &name) {
        const std::lock_guard<std::mutex> lock(server_->mutex);
        return server_->answers[name];
    }

    void ask(const std::string &name) {
        const Resolver::Answer got = resolver_->ask(name, now_);
        if (got.state == Resolver::State::ready) {
            require(got.addresses != nullptr && !got.addresses->empty() && got.error.empty());
            require(known_.count(name) != 0 && same(*got.addresses, known_[name]));
            require(now_ - known_at_[name] <= limits_.stale);
            if (now_ - known_at_[name] > limits_.fresh && now_ - failed_at(name) > limits_.negative)
                asked_.insert(name); // an old answer serves while it is asked again
        } else if (got.state == Resolver::State::failed) {
            require(!got.error.empty() && now_ - failed_at(name) <= limits_.negative);
        } else {
            asked_.insert(name);
        }
    }

    int64_t failed_at(const std::string &name) {
        const auto found = failed_at_.find(name);
        return found == failed_at_.end() ? INT64_MIN / 2 : found->second;
    }

    // Waits for at least one look-up that is under way. Without end: how long a thread waits for a processor
    // is the machine's affair; libFuzzer's time-out, whose timer interrupts the wait, tells of one that never
    // comes.
    void collect() {
        if (asked_.empty()) {
            require(resolver_->collect(now_).empty());
            return;
        }
        pollfd wake{resolver_->wake_fd(), POLLIN, 0};
        while (poll(&wake, 1, -1) < 0)
            require(errno == EINTR);
        for (const std::string &name : resolver_->collect(now_)) {
            require(asked_.erase(name) == 1); // one look-up per name at a time
            const LookupResult result = planned(name);
            if (!result.addresses.empty()) {
                known_[name] = result.addresses;
                known_at_[name] = now_;
                failed_at_.erase(name);
            } else {
                failed_at_[name] = now_;
                if (!result.temporary)
                    known_.erase(name);
            }
        }
    }

    Input &input_;
    Resolver::Limits limits_;
    std::shared_ptr<NameServer> server_;
    std::unique_ptr<Resolver> resolver_;
    int64_t now_ = 1000;
    std::set<std::string> asked_;
    std::map<std::string, std::vector<Address>> known_;
    std::map<std::string, int64_t> known_at_, failed_at_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    Run(input).all();
    return 0;
}
