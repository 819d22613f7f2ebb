// Sockets, time and the address policy: what the engine must not let others do to it.
#include "core/http_engine.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace whisperer::core::test {
namespace {

constexpr Micros second = 1000000;

// Reads a request and never answers; counts.
Server::Script hang_after_request(std::atomic<int> &requests) {
    return [&requests](Peer &peer) {
        if (peer.read_request())
            ++requests;
        peer.hang();
    };
}

// Where this process has no file descriptors left, the error does not say that the receiver cannot be
// reached.
TEST(HttpSockets, AShortageOfOurOwnIsToldAsSuch) {
    Server server([](Peer &peer) {
        if (peer.read_request())
            peer.send(response(200, "", "Connection: close\r\n"));
    });
    Owner owner;
    ASSERT_EQ(owner.ask(server.url()).status,
              200); // all threads run: a sanitizer wants descriptors when one begins
    owner.done.clear();
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const int next = fcntl(0, F_DUPFD_CLOEXEC, 0); // the lowest free one
    ASSERT_GE(next, 0);
    close(next);
    const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    EXPECT_TRUE(owner.post(1, server.url()));
    EXPECT_TRUE(owner.until(owner.all(1)));
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    ASSERT_EQ(owner.done.size(), 1u);
    EXPECT_EQ(owner.done[0].failure, Failure::internal);
    EXPECT_EQ(owner.done[0].error.find("the database server could not make a socket: "), 0u)
        << owner.done[0].error;
}

// ---- time

TEST(HttpTime, ResponseTimeoutTellsWhatHappened) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url(), "12345"));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    const Micros before = owner.ahead;
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::response_timeout);
    EXPECT_EQ(owner.done[0].status, 0);
    EXPECT_EQ(owner.done[0].error.find("no response within 10 s (name lookup 0 ms, connect "), 0u)
        << owner.done[0].error;
    EXPECT_NE(owner.done[0].error.find("received 0 bytes"), std::string::npos) << owner.done[0].error;
    EXPECT_EQ(owner.done[0].error.find("sent 0 bytes"), std::string::npos) << owner.done[0].error;
    EXPECT_GT(owner.ahead - before, 8 * second);
    EXPECT_LT(owner.ahead - before, 11 * second);
}

// Is not the receiver's fault, who has seen none of it.
TEST(HttpSize, ARequestThatIsTooLarge) {
    Server server(answer_all());
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url(), "{}", {"X-Large: " + std::string(2 << 20, 'x')}));
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::internal);
    EXPECT_EQ(owner.done[0].error, "the request's headers are larger than libcurl sends, or memory ran out");
}

TEST(HttpTime, TrickleIsCutAtTheLimit) {
    std::atomic<bool> stop{false};
    std::atomic<int> sent{0};
    Server server([&](Peer &peer) {
        peer.read_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        while (!stop && peer.send("x")) {
            ++sent;
            std::this_thread::sleep_for(
                std::chrono::milliseconds(1)); // the receiver's pace, no wait for a state
        }
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return sent > 3; }));
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    stop = true;
    EXPECT_EQ(owner.done[0].failure, Failure::response_timeout);
    EXPECT_EQ(owner.done[0].status, 200);
    EXPECT_EQ(owner.done[0].error.find("the response was not complete within 10 s"), 0u)
        << owner.done[0].error;
}

TEST(HttpTime, ConnectTimeoutCoversTheNameLookup) {
    auto gate = std::make_shared<Gate>();
    Owner owner([gate](const std::string &) {
        gate->pass();
        return LookupResult{};
    });
    ASSERT_TRUE(owner.post(1, "http://hung.example/"));
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::connect_timeout);
    EXPECT_NE(owner.done[0].error.find("\"hung.example\" did not end within 5 s"), std::string::npos)
        << owner.done[0].error;
    gate->open();
}

TEST(HttpTime, ConnectTimeoutCoversTheTlsHandshake) {
    std::atomic<int> accepted{0};
    Server server([&](Peer &peer) {
        ++accepted;
        peer.hang();
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, "https://127.0.0.1:" + std::to_string(server.port()) + "/"));
    ASSERT_TRUE(owner.until([&] { return accepted == 1; }));
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::connect_timeout);
    EXPECT_EQ(owner.done[0].error.find("no connection within 5 s"), 0u) << owner.done[0].error;
}

TEST(HttpTime, AHungReceiverHoldsUpNobody) {
    std::atomic<int> hung{0};
    Server hanging(hang_after_request(hung));
    Server server(answer_all());
    Owner owner;
    for (uint64_t i = 0; i < 50; i++)
        ASSERT_TRUE(owner.post(i, hanging.url()));
    ASSERT_TRUE(owner.until([&] { return hung == 50; }));
    ASSERT_TRUE(owner.post(100, server.url()));
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].tag, 100u);
    EXPECT_EQ(owner.engine->in_flight(), 50u);
}

TEST(HttpTime, AnAnswerThatCameDuringAStallCounts) {
    std::atomic<bool> answered{false};
    Server server([&](Peer &peer) {
        peer.read_request();
        peer.send(response(200, std::string(300000, 'x')));
        answered = true;
        peer.hang();
    });
    Owner owner;
    owner.max_body = 1 << 20;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return answered.load(); }));
    if (owner.done.empty()) {
        owner.ahead += 60 * second; // the owner was away
        owner.engine->step(owner.now());
    }
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::none) << owner.done[0].error;
    EXPECT_EQ(owner.done[0].body.size(), 300000u);
}

// The ways in which an owner can be late; the receiver is charged for none of them.
TEST(HttpTime, AStallIsNotCountedAgainstTheReceiver) {
    std::atomic<int> requests{0};
    Gate gate;
    Server server([&](Peer &peer) {
        peer.read_request();
        ++requests;
        gate.pass();
        peer.send(response(200, ""));
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    // Slept longer than it should have.
    owner.engine->timeout_ms(owner.now());
    owner.ahead += 60 * second;
    owner.engine->step(owner.now());
    EXPECT_EQ(owner.engine->peek_done(), nullptr);
    // Busy between step and wait.
    owner.ahead += 60 * second;
    owner.engine->timeout_ms(owner.now());
    owner.engine->step(owner.now());
    EXPECT_EQ(owner.engine->peek_done(), nullptr);
    // Busy between step and step.
    owner.ahead += 60 * second;
    owner.engine->step(owner.now());
    EXPECT_EQ(owner.engine->peek_done(), nullptr);
    gate.open();
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].status, 200) << owner.done[0].error;
}

// A receiver that floods makes each step long. That is no stall, or neither its time nor anybody's would ever
// be up.
TEST(HttpTime, LongStepsAreCounted) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    const Micros before = owner.ahead;
    while (owner.engine->peek_done() == nullptr && owner.ahead < before + 600 * second) {
        owner.engine->step(owner.now());
        owner.ahead += 300 * 1000; // in the step
        owner.engine->timeout_ms(owner.now());
    }
    ASSERT_NE(owner.engine->peek_done(), nullptr);
    EXPECT_EQ(owner.engine->peek_done()->failure, Failure::response_timeout);
    EXPECT_LT(owner.ahead - before, 20 * second);
}

TEST(HttpTime, ARequestAddedAfterAStallHasItsOwnTimeOnly) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    owner.ahead += 600 * second;
    ASSERT_TRUE(owner.post(2, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 2; }));
    const Micros before = owner.ahead;
    ASSERT_TRUE(owner.leap_until(owner.all(2)));
    EXPECT_EQ(owner.done[1].failure, Failure::response_timeout);
    EXPECT_LT(owner.ahead - before, 12 * second);
}

TEST(HttpTime, AnIdleEngineDoesNotTakeIdleTimeForAStall) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    EXPECT_EQ(owner.engine->timeout_ms(owner.now()), -1);
    owner.ahead += 3600 * second;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    const Micros before = owner.ahead;
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_LT(owner.ahead - before, 12 * second);
}

// ---- the address policy

TEST(HttpPolicy, RefusesWhatIsNotAllowed) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    owner.policy.allowed_count = 0;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    for (const char *host : {"127.0.0.1", "inside.example"}) {
        const Outcome outcome = owner.ask(server.url(host));
        EXPECT_EQ(outcome.failure, Failure::refused_by_policy) << host;
        EXPECT_EQ(outcome.error,
                  "address 127.0.0.1 (loopback) is not allowed; see whisperer.allowed_networks");
    }
    const Outcome six = owner.ask("http://[::1]:1/");
    EXPECT_EQ(six.failure, Failure::refused_by_policy);
    EXPECT_NE(six.error.find("address ::1 (loopback)"), std::string::npos) << six.error;
    EXPECT_EQ(owner.ask("http://[::ffff:127.0.0.1]:1/").failure, Failure::refused_by_policy);
    EXPECT_EQ(server.connections(), 0);
}

TEST(HttpPolicy, UsesTheAddressThatIsAllowed) {
    Server server(answer_all());
    Owner owner(fixed({v4(10, 0, 0, 1), v4(192, 168, 1, 1), v4(127, 0, 0, 1)}));
    EXPECT_EQ(owner.ask(server.url("mixed.example")).status, 200) << owner.done[0].error;
}

TEST(HttpPolicy, HoldsForRequestsAfterAChange) {
    Server server(answer_all());
    Owner owner;
    EXPECT_EQ(owner.ask(server.url()).status, 200);
    owner.policy.allowed_count = 0;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    EXPECT_EQ(owner.ask(server.url()).failure, Failure::refused_by_policy);
    owner.policy.allowed_count = 2;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    EXPECT_EQ(owner.ask(server.url()).status, 200);
}

} // namespace
} // namespace whisperer::core::test
