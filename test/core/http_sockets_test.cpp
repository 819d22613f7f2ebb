#include "core/http_sockets.hpp"

#include <gtest/gtest.h>

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
        return sockets.wait(reports, &full);
    }
    bool shut_down() const {
        char byte;
        return recv(pair[1], &byte, 1, MSG_PEEK) == 0;
    }
    void say_something() { ASSERT_EQ(write(pair[1], "x", 1), 1); }

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
