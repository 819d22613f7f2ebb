#include "core/resolver.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

namespace whisperer::core::test {
namespace {

constexpr int64_t second = 1000000;

// Waits until the resolver reports, and takes the names in. It may report once more what has been taken.
std::vector<std::string> next(Resolver &resolver, int64_t now) {
    std::vector<std::string> names;
    pollfd fd{resolver.wake_fd(), POLLIN, 0};
    while (names.empty() && poll(&fd, 1, 20000) == 1)
        names = resolver.collect(now);
    return names;
}

struct Names {
    std::mutex mutex;
    std::vector<std::string> asked;
    LookupResult result{{v4(192, 0, 2, 1)}, "", false};

    LookupFunction function() {
        return [this](const std::string &name) {
            const std::lock_guard<std::mutex> lock(mutex);
            asked.push_back(name);
            return result;
        };
    }
    void set(LookupResult to) {
        const std::lock_guard<std::mutex> lock(mutex);
        result = std::move(to);
    }
    size_t count() {
        const std::lock_guard<std::mutex> lock(mutex);
        return asked.size();
    }
};

TEST(Resolver, AsksOncePerName) {
    auto gate = std::make_shared<Gate>();
    auto count = std::make_shared<std::atomic<int>>(0);
    Resolver resolver(
        [gate, count](const std::string &) {
            ++*count;
            gate->pass();
            return LookupResult{{v4(192, 0, 2, 1)}, "", false};
        },
        Resolver::Limits());
    for (int i = 0; i < 100; i++)
        EXPECT_EQ(resolver.ask("a.example", 0).state, Resolver::State::pending);
    gate->open();
    EXPECT_EQ(next(resolver, 0), std::vector<std::string>{"a.example"});
    EXPECT_EQ(resolver.ask("a.example", 0).state, Resolver::State::ready);
    EXPECT_EQ(*count, 1);
}

TEST(Resolver, ServesAnOldAnswerWhileItAsksAgain) {
    Names names;
    Resolver resolver(names.function(), Resolver::Limits());
    resolver.ask("a.example", 0);
    next(resolver, 0);
    const Resolver::Addresses first = resolver.ask("a.example", 59 * second).addresses;
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(names.count(), 1u);

    names.set({{v4(192, 0, 2, 2)}, "", false});
    EXPECT_EQ(resolver.ask("a.example", 61 * second).addresses, first);
    next(resolver, 61 * second);
    const Resolver::Answer second_answer = resolver.ask("a.example", 61 * second);
    ASSERT_EQ(second_answer.state, Resolver::State::ready);
    EXPECT_EQ((*second_answer.addresses)[0].bytes[3], 2);

    // No name server answers: the old answer serves, but not for ever.
    names.set({{}, "no answer", true});
    EXPECT_EQ(resolver.ask("a.example", 200 * second).state, Resolver::State::ready);
    next(resolver, 200 * second);
    EXPECT_EQ(resolver.ask("a.example", 201 * second).state, Resolver::State::ready);
    EXPECT_EQ(resolver.ask("a.example", 700 * second).state, Resolver::State::pending);
    next(resolver, 700 * second);
    const Resolver::Answer failed = resolver.ask("a.example", 700 * second);
    EXPECT_EQ(failed.state, Resolver::State::failed);
    EXPECT_EQ(failed.error, "no answer");
}

TEST(Resolver, KeepsTheAnswerWhenNothingChanged) {
    Names names;
    Resolver resolver(names.function(), Resolver::Limits());
    resolver.ask("a.example", 0);
    next(resolver, 0);
    const Resolver::Addresses first = resolver.ask("a.example", 0).addresses;
    resolver.ask("a.example", 100 * second);
    next(resolver, 100 * second);
    EXPECT_EQ(resolver.ask("a.example", 100 * second).addresses, first);
    EXPECT_EQ(names.count(), 2u);
}

TEST(Resolver, RemembersAFailureForASecond) {
    Names names;
    names.set({{}, "unknown", false});
    Resolver resolver(names.function(), Resolver::Limits());
    resolver.ask("a.example", 0);
    next(resolver, 0);
    EXPECT_EQ(resolver.ask("a.example", second / 2).state, Resolver::State::failed);
    EXPECT_EQ(names.count(), 1u);
    EXPECT_EQ(resolver.ask("a.example", 2 * second).state, Resolver::State::pending);
    next(resolver, 2 * second);
    EXPECT_EQ(names.count(), 2u);
}

TEST(Resolver, DropsANameThatIsGone) {
    Names names;
    Resolver resolver(names.function(), Resolver::Limits());
    resolver.ask("a.example", 0);
    next(resolver, 0);
    names.set({{}, "unknown", false});
    resolver.ask("a.example", 100 * second);
    next(resolver, 100 * second);
    EXPECT_EQ(resolver.ask("a.example", 100 * second).state, Resolver::State::failed);
}

TEST(Resolver, OneHungNameDoesNotHoldUpAnother) {
    auto gate = std::make_shared<Gate>();
    Resolver::Limits limits;
    limits.threads = 2;
    Resolver resolver(
        [gate](const std::string &name) {
            if (name[0] == 'h')
                gate->pass();
            return LookupResult{{v4(192, 0, 2, 1)}, "", false};
        },
        limits);
    resolver.ask("hung.example", 0);
    resolver.ask("a.example", 0);
    EXPECT_EQ(next(resolver, 0), std::vector<std::string>{"a.example"});
    // Both threads taken: the next one waits in the queue, and is served when one is free again.
    resolver.ask("hung2.example", 0);
    resolver.ask("b.example", 0);
    while (gate->entered < 2)
        std::this_thread::yield();
    EXPECT_EQ(resolver.threads(), 2u);
    EXPECT_TRUE(resolver.collect(0).empty());
    gate->open();
    std::vector<std::string> all;
    while (all.size() < 3)
        for (const std::string &name : next(resolver, 0))
            all.push_back(name);
    EXPECT_EQ(resolver.ask("b.example", 0).state, Resolver::State::ready);
}

TEST(Resolver, NamesWithoutAnAnswerLeaveThreadsForTheOthers) {
    auto gate = std::make_shared<Gate>();
    Resolver::Limits limits;
    limits.threads = 4;
    limits.doubtful = 1;
    std::atomic<bool> hangs{false};
    Resolver resolver(
        [gate, &hangs](const std::string &name) {
            if (name[0] != 's')
                return LookupResult{{v4(192, 0, 2, 1)}, "", false};
            if (hangs)
                gate->pass();
            return LookupResult{{}, "no answer", true};
        },
        limits);
    const std::vector<std::string> silent = {"s1", "s2", "s3", "s4", "s5"};
    const auto collect = [&](size_t count, int64_t now) {
        std::vector<std::string> all;
        while (all.size() < count)
            for (const std::string &name : next(resolver, now))
                all.push_back(name);
    };
    for (const std::string &name : silent)
        resolver.ask(name, 0);
    collect(silent.size(), 0);
    hangs = true;
    for (const std::string &name : silent)
        EXPECT_EQ(resolver.ask(name, 2 * second).state, Resolver::State::pending);
    while (gate->entered < 1)
        std::this_thread::yield();
    // Five names hang or wait for one thread; new ones do not wait for them.
    for (const char *name : {"a.example", "b.example"}) {
        resolver.ask(name, 2 * second);
        EXPECT_EQ(next(resolver, 2 * second), std::vector<std::string>{name});
    }
    EXPECT_EQ(gate->entered, 1);
    gate->open();
    collect(silent.size(), 2 * second); // each has its turn
    EXPECT_EQ(resolver.ask("s5", 2 * second).state, Resolver::State::failed);
}

TEST(Resolver, AThrowingLookupIsAFailure) {
    Resolver resolver([](const std::string &) -> LookupResult { throw std::bad_alloc(); },
                      Resolver::Limits());
    resolver.ask("a.example", 0);
    next(resolver, 0);
    EXPECT_EQ(resolver.ask("a.example", 0).error, "out of memory");
}

TEST(Resolver, RemembersABoundedNumberOfNames) {
    Names names;
    Resolver::Limits limits;
    limits.names = 10;
    Resolver resolver(names.function(), limits);
    for (int i = 0; i < 100; i++) {
        const std::string name = std::to_string(i) + ".example";
        ASSERT_EQ(resolver.ask(name, 0).state, Resolver::State::pending);
        next(resolver, 0);
        ASSERT_EQ(resolver.ask(name, 0).state, Resolver::State::ready);
    }
    EXPECT_EQ(resolver.ask("0.example", 0).state, Resolver::State::pending); // forgotten
    next(resolver, 0);
}

TEST(Resolver, IsDestroyedWhileALookupHangs) {
    auto gate = std::make_shared<Gate>();
    auto resolver = std::make_unique<Resolver>(
        [gate](const std::string &) {
            gate->pass();
            return LookupResult{};
        },
        Resolver::Limits());
    resolver->ask("hung.example", 0);
    while (gate->entered < 1)
        std::this_thread::yield();
    resolver.reset();
    gate->open();
}

TEST(Resolver, SystemLookupKnowsLocalhost) {
    const LookupResult result = system_lookup("localhost");
    ASSERT_FALSE(result.addresses.empty()) << result.error;
    for (const Address &address : result.addresses)
        EXPECT_STREQ(special_kind(address), "loopback");
    EXPECT_NE(system_lookup("no such name").error, "");
}

} // namespace
} // namespace whisperer::core::test
