// Where memory runs out, the HTTP engine takes a request or says that it does not, and whatever it took ends.
#include "failing_memory.hpp"
#include "loopback.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace whisperer::core::test {
namespace {

class EngineOutOfMemory : public ::testing::Test {
  protected:
    EngineOutOfMemory()
        : server([](Peer &peer) {
              while (peer.read_request())
                  peer.send(
                      response(503, "a body that is longer than a short string's",
                               "Retry-After: 10\r\nX-Long: a value that is longer than a short one\r\n"));
          }) {}

    // Everything that one request does, with memory failing.
    bool post(Owner &owner, uint64_t tag, const std::string &url) {
        const Slice line = slice("Content-Type: application/json; charset=utf-8");
        HttpRequest request{};
        request.tag = tag;
        request.url = slice(url);
        request.headers = &line;
        request.header_count = 1;
        request.body = slice("{\"a\": \"body that is longer than a short string's\"}");
        request.connect_timeout = request.response_timeout = 60000000;
        request.max_response_body = 1000;
        const Memory failing(true);
        return owner.engine->add(request, owner.now());
    }

    static void turn(Owner &owner) {
        pollfd fd{owner.engine->wait_fd(), POLLIN, 0};
        poll(&fd, 1, std::clamp(owner.engine->timeout_ms(owner.now()), 0, 10));
        const Memory failing(true);
        owner.engine->step(owner.now());
    }

    Server server;
};

TEST_F(EngineOutOfMemory, ItIsMadeOrNot) {
    const AddressPolicy policy = loopback_policy();
    EngineSettings settings{&policy, slice("/a/file/that/is/not/there"), slice("http://127.0.0.1:1"), 10};
    const Micros now = 1;
    std::unique_ptr<HttpEngine>(HttpEngine::create(settings, now)); // what libcurl opens once
    const int files = open_files();
    EXPECT_GT(
        try_each_allocation([&] { return std::unique_ptr<HttpEngine>(HttpEngine::create(settings, now)); },
                            [](const auto &engine, bool failed) { EXPECT_EQ(engine == nullptr, failed); }),
        0);
    EXPECT_EQ(open_files(), files);
}

// With new settings or with the old ones, and never with none.
TEST_F(EngineOutOfMemory, SettingsAreChangedOrNot) {
    AddressPolicy none{};
    const EngineSettings closed{&none, {}, {}, 600};
    for (int number = 0;; number++) {
        Owner owner;
        ASSERT_EQ(owner.ask(server.url()).status, 503);
        plan_memory(number, 1);
        bool changed = false;
        {
            const Memory failing(true);
            changed = owner.engine->configure(closed);
        }
        const bool failed = memory_failures() > 0;
        EXPECT_EQ(changed, !failed);
        EXPECT_EQ(owner.ask(server.url()).failure, changed ? Failure::refused_by_policy : Failure::none);
        if (!failed)
            break;
        EXPECT_TRUE(owner.engine->configure(closed));
        EXPECT_EQ(owner.ask(server.url()).failure, Failure::refused_by_policy);
    }
}

// A request is not taken, or it ends: answered, or failed for want of memory. The next ones are answered.
TEST_F(EngineOutOfMemory, ARequestIsTakenAndEndsOrIsNotTaken) {
    for (const char *host : {"127.0.0.1", "receiver.example"}) {
        int refused = 0, broken = 0;
        for (int number = 0;; number++) {
            Owner owner([](const std::string &) {
                return LookupResult{{v4(127, 0, 0, 1), v4(127, 0, 0, 2)}, "", false};
            });
            const std::string url = server.url(host, "/a/path/that/is/longer/than/a/short/string/is");
            plan_memory(number, 1);
            if (post(owner, 1, url)) {
                const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
                while (owner.engine->peek_done() == nullptr && std::chrono::steady_clock::now() < end)
                    turn(owner);
                const HttpResult *result = owner.engine->peek_done();
                ASSERT_NE(result, nullptr) << "allocation " << number << " left it hanging";
                if (result->failure == Failure::none) {
                    EXPECT_EQ(result->status, 503);
                    EXPECT_EQ(result->retry_after.view(), "10");
                } else {
                    // Told as what it is, and not as a fault of the receiver's.
                    EXPECT_EQ(result->failure, Failure::internal) << result->error.view();
                    EXPECT_NE(memory_failures(), 0);
                    broken++;
                }
                owner.engine->pop_done();
            } else {
                EXPECT_EQ(owner.engine->in_flight(), 0u);
                refused++;
            }
            const bool failed = memory_failures() > 0;
            plan_memory(0, 0);
            EXPECT_EQ(owner.ask(url).status, 503) << "after allocation " << number << " had failed";
            EXPECT_EQ(owner.engine->in_flight(), 0u);
            if (!failed)
                break;
        }
        EXPECT_GT(refused, 5);
        EXPECT_GT(broken, 2);
    }
}

} // namespace
} // namespace whisperer::core::test
