#include "core/http_sockets.hpp"

#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace whisperer::core;

namespace {

// A connection as an engine has it, and its other end.
class SocketSetTest : public testing::Test {
  protected:
    SocketSetTest() {
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
        EXPECT_TRUE(sockets.opened(pair[0], this));
    }
    ~SocketSetTest() override {
        close(pair[0]);
        close(pair[1]);
        close(wake);
    }

    size_t ready() {
        bool full = false;
        return sockets.wait(reports, &full, now);
    }
    bool shut_down() const {
        char byte;
        return recv(pair[1], &byte, 1, MSG_PEEK) == 0;
    }
    void say_something() { ASSERT_EQ(write(pair[1], "x", 1), 1); }

    int64_t now = 0;
    int wake = eventfd(0, 0);
    int pair[2] = {-1, -1};
    SocketSet sockets{wake};
    std::array<SocketSet::Ready, SocketSet::batch> reports{};
};

} // namespace

TEST_F(SocketSetTest, ReportsWhatIsWaitedFor) {
    sockets.want(pair[0], EPOLLIN, false);
    EXPECT_EQ(ready(), 0u);
    say_something();
    ASSERT_EQ(ready(), 1u);
    EXPECT_EQ(reports[0].fd, pair[0]);
    EXPECT_EQ(reports[0].owner, this);
    EXPECT_FALSE(shut_down());
}

TEST_F(SocketSetTest, AnIdleConnectionThatSaysSomethingIsShutDown) {
    sockets.want(pair[0], EPOLLIN, false);
    sockets.want(pair[0], 0, false);
    say_something();
    EXPECT_EQ(ready(), 0u);
    EXPECT_TRUE(shut_down());
}

TEST_F(SocketSetTest, AnIdleConnectionThatMaySpeakIsNot) {
    sockets.want(pair[0], EPOLLIN, true);
    sockets.want(pair[0], 0, true);
    say_something();
    EXPECT_EQ(ready(), 0u);
    EXPECT_FALSE(shut_down());
}

// Newer libcurl may still wait to write when the response is whole.
TEST_F(SocketSetTest, AnIdleConnectionThatCouldBeWrittenToIsWatchedOn) {
    sockets.want(pair[0], EPOLLIN | EPOLLOUT, false);
    sockets.want(pair[0], 0, false);
    EXPECT_EQ(ready(), 0u);
    EXPECT_EQ(ready(), 0u);
    EXPECT_FALSE(shut_down());
    say_something();
    EXPECT_EQ(ready(), 0u);
    EXPECT_TRUE(shut_down());
}

// As libcurl does with HTTP/2 when the other side takes no more for now.
TEST_F(SocketSetTest, OneThatIsWaitedForInVainIsLeftAloneForAWhile) {
    sockets.want(pair[0], EPOLLIN | EPOLLOUT, true);
    const auto tires = [&] {
        int looks = 0;
        while (ready() == 1u && looks < 1000)
            looks++;
        return looks;
    };
    int looks = tires();
    EXPECT_GT(looks, 10);
    ASSERT_LT(looks, 1000);
    ASSERT_GT(sockets.rests_until(), now);
    EXPECT_LT(sockets.rests_until(), now + 100000);
    now = sockets.rests_until();
    looks = tires(); // once more, after it was writable again
    EXPECT_GT(looks, 0);
    EXPECT_LT(looks, 10);
    // It is heard, and may be written to at once.
    say_something();
    ASSERT_EQ(ready(), 1u);
    EXPECT_EQ(reports[0].events, static_cast<uint32_t>(EPOLLIN));
    ASSERT_EQ(ready(), 1u);
    EXPECT_EQ(reports[0].events, static_cast<uint32_t>(EPOLLIN | EPOLLOUT));
}

TEST_F(SocketSetTest, OneThatIsWrittenToIsNot) {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto *general = reinterpret_cast<sockaddr *>(&address);
    ASSERT_EQ(bind(listener, general, size), 0);
    ASSERT_EQ(listen(listener, 1), 0);
    ASSERT_EQ(getsockname(listener, general, &size), 0);
    const int out = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(connect(out, general, size), 0);
    const int in = accept(listener, nullptr, nullptr);
    ASSERT_TRUE(sockets.opened(out, this));
    sockets.want(out, EPOLLIN | EPOLLOUT, false);
    char byte = 'x';
    for (int i = 0; i < 1000; i++) {
        ASSERT_EQ(ready(), 1u) << i;
        ASSERT_EQ(write(out, &byte, 1), 1);
        ASSERT_EQ(read(in, &byte, 1), 1);
    }
    for (int fd : {listener, out, in})
        close(fd);
}
