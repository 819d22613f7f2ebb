// HTTP/2: requests that share a connection share its fate.
#include "core/http_engine.hpp"

#include "tls_server.hpp"

#include <gtest/gtest.h>

namespace whisperer::core::test {
namespace {

constexpr Micros second = 1000000;

// RFC 9113, section 4.1
std::string frame(int type, int flags, int stream, const std::string &payload = "") {
    const size_t size = payload.size();
    std::string text;
    for (const size_t byte : {size >> 16, size >> 8, size})
        text.push_back(static_cast<char>(byte));
    text.push_back(static_cast<char>(type));
    text.push_back(static_cast<char>(flags));
    for (const int byte : {stream >> 24, stream >> 16, stream >> 8, stream})
        text.push_back(static_cast<char>(byte));
    return text + payload;
}

// Requests are told apart by their bodies.
class Http2 : public testing::Test {
  protected:
    Http2() {
        owner.settings.ca_file = slice(certificate);
        EXPECT_TRUE(owner.engine->configure(owner.settings));
    }

    // Sends a request, and comes back when it has arrived.
    void request(uint64_t tag) {
        const std::string body = "<request " + std::to_string(tag) + ">";
        ASSERT_TRUE(owner.post(tag, server.url("hook.example"), body));
        ASSERT_TRUE(owner.until([&] { return server.heard(body) > 0; })) << tag;
    }
    size_t connections() { return server.heard("PRI * HTTP/2.0"); }
    void greet() { server.say(frame(4, 0, 0) + frame(4, 1, 0)); } // SETTINGS, and an answer to the client's
    void answer(int stream) { server.say(frame(1, 5, stream, "\x88")); } // ":status: 200", and no body

    // Tag and status of the next one that ends.
    std::pair<uint64_t, int> next() {
        EXPECT_TRUE(owner.until(owner.all(taken_ + 1)));
        return taken_ < owner.done.size() ? take() : std::make_pair(uint64_t{0}, -1);
    }
    std::pair<uint64_t, int> next_timeout() {
        EXPECT_TRUE(owner.leap_until(owner.all(taken_ + 1)));
        EXPECT_EQ(owner.done[taken_].failure, Failure::response_timeout) << owner.done[taken_].error;
        return take();
    }

    using Ended = std::pair<uint64_t, int>;
    TlsServer server{{"-alpn", "h2"}};
    std::string certificate = server.certificate();
    Owner owner{fixed({v4(127, 0, 0, 1)})};

  private:
    std::pair<uint64_t, int> take() {
        const Outcome &outcome = owner.done[taken_++];
        return {outcome.tag, outcome.status};
    }
    size_t taken_ = 0;
};

// Nobody may be at its other end any more, which TCP does not notice for a quarter of an hour.
TEST_F(Http2, AConnectionThatSaysNothingIsLeft) {
    ASSERT_NO_FATAL_FAILURE(request(1));
    greet();
    answer(1);
    EXPECT_EQ(next(), Ended(1, 200));
    ASSERT_NO_FATAL_FAILURE(request(2));
    EXPECT_EQ(connections(), 1u);
    EXPECT_EQ(next_timeout(), Ended(2, 0));

    ASSERT_NO_FATAL_FAILURE(request(3));
    EXPECT_EQ(connections(), 2u);
    greet();
    answer(1);
    EXPECT_EQ(next(), Ended(3, 200));
}

// The request was not answered in its time, but another one over the same connection has time left.
TEST_F(Http2, ItsOtherRequestsDoNotWaitForTheirTimeouts) {
    ASSERT_NO_FATAL_FAILURE(request(1));
    greet();
    answer(1);
    EXPECT_EQ(next(), Ended(1, 200));
    ASSERT_NO_FATAL_FAILURE(request(2));
    const Micros begun = owner.ahead;
    ASSERT_TRUE(owner.leap_until([&] { return owner.ahead > begun + 5 * second; }));
    ASSERT_NO_FATAL_FAILURE(request(3));
    EXPECT_EQ(next_timeout(), Ended(2, 0));
    // libcurl sends it again, since it has got nothing over a connection that was reused; or it has failed.
    ASSERT_TRUE(owner.until([&] { return owner.done.size() == 3 || server.heard("<request 3>") == 2; }));
    if (owner.done.size() == 3) {
        EXPECT_EQ(owner.done[2].failure, Failure::cut_short) << owner.done[2].error;
        return;
    }
    EXPECT_EQ(connections(), 2u);
    greet();
    answer(1);
    EXPECT_EQ(next(), Ended(3, 200)) << owner.done.back().error;
}

TEST_F(Http2, ASlowRequestCostsTheOthersNothing) {
    ASSERT_NO_FATAL_FAILURE(request(1));
    greet();
    answer(1);
    EXPECT_EQ(next(), Ended(1, 200));
    ASSERT_NO_FATAL_FAILURE(request(2)); // stream 3
    ASSERT_NO_FATAL_FAILURE(request(3)); // stream 5
    answer(5);
    EXPECT_EQ(next(), Ended(3, 200));
    EXPECT_EQ(next_timeout(), Ended(2, 0));

    ASSERT_NO_FATAL_FAILURE(request(4));
    EXPECT_EQ(connections(), 1u);
    answer(7);
    EXPECT_EQ(next(), Ended(4, 200));
}

// Libcurl waits until it may write to the socket, which it may, but the receiver's window is full.
TEST_F(Http2, ABodyThatIsNotTakenCostsNoTime) {
    const std::string body(300000, 'x');
    ASSERT_TRUE(owner.post(1, server.url("hook.example"), body));
    ASSERT_TRUE(owner.until([&] { return connections() == 1; }));
    greet();
    ASSERT_TRUE(owner.until([&] { return server.heard("x") > 65000; }));
    pollfd fd{owner.engine->wait_fd(), POLLIN, 0};
    int steps = 0;
    for (; steps < 1000 && poll(&fd, 1, 0) == 1; steps++)
        owner.engine->step(owner.now());
    EXPECT_LT(steps, 1000);

    const std::string room("\x00\x10\x00\x00", 4);
    server.say(frame(8, 0, 0, room) + frame(8, 0, 1, room)); // WINDOW_UPDATE
    ASSERT_TRUE(owner.until([&] { return server.heard("x") >= body.size(); }));
    answer(1);
    EXPECT_EQ(next(), Ended(1, 200));
}

} // namespace
} // namespace whisperer::core::test
