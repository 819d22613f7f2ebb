// The epoll descriptor behind HttpEngine::wait_fd(), and what is known of each socket in it.
#pragma once

#include "core/address_policy.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <vector>

namespace whisperer::core {

// False: it is of no family that is dialled.
bool read_sockaddr(const sockaddr *from, Address *to) noexcept;

class SocketSet {
  public:
    // A connection as libcurl names it, and when something began on it, in looks().
    struct Since {
        uint16_t local_port = 0; // 0: not known
        Address remote{};
        uint64_t look = 0;
    };

    static constexpr int batch = 256; // sockets reported by one wait()

    struct Ready {
        int fd;
        void *owner; // null: the wake-up descriptor
        uint32_t events;
    };

    // Throws std::runtime_error when there is no descriptor to be had. `wake_fd` stays the caller's.
    explicit SocketSet(int wake_fd);
    ~SocketSet();
    SocketSet(const SocketSet &) = delete;
    SocketSet &operator=(const SocketSet &) = delete;

    int fd() const noexcept { return epoll_; }

    // A socket was made for an owner. False: out of memory. Must be told before want().
    bool opened(int fd, void *owner) noexcept;

    // A socket is about to be closed.
    void closed(int fd) noexcept;

    // Its owner waits for these epoll events; 0: for nothing at present. A socket with nothing to wait for
    // stays registered until it reports something: a kept-alive connection is mostly used again before it
    // does, which saves two system calls per request. `may_speak`: what comes meanwhile is in order, as it is
    // with HTTP/2.
    void want(int fd, uint32_t events, bool may_speak) noexcept;

    // Fills ready[0..batch) with what is ready now and returns how many entries were filled. Never blocks.
    // `full` tells whether there may be more. Ends connections that have said something unasked. `now` in
    // microseconds.
    size_t wait(std::array<Ready, batch> &ready, bool *full, int64_t now) noexcept;

    // Ends the connections of an owner for which nobody waits. The sockets stay open until their owner closes
    // them.
    void shut_down_idle(const void *owner) noexcept;

    // Ends a connection that has said nothing since.
    void shut_down_silent(const void *owner, const Since &since) noexcept;

    // How often wait() has looked.
    uint64_t looks() const noexcept { return looks_; }

    // True when the kernel refused a registration (out of memory, too many watches); wait() tries again.
    bool troubled() const noexcept { return troubled_; }

    // When wait() is to look again, readable or not; -1: there is no such time. Libcurl waits for a socket to
    // become writable also where HTTP/2 does not let it write. One that is writable again and again, and not
    // written to, is watched for a while for what it says only.
    int64_t rests_until() const noexcept { return rests_until_; }

  private:
    struct Slot {
        void *owner = nullptr; // null: not one of ours
        uint32_t wanted = 0;
        uint32_t registered = 0; // 0: not in the epoll set
        bool may_speak = false;
        uint16_t local_port = 0; // 0: not asked for yet
        uint64_t heard = 0;      // the last look that found more than that it may be written to
        unsigned writable = 0;   // how often running that was all
        uint64_t written = 0;    // bytes, when that was looked at
    };

    void apply(int fd) noexcept;
    void watch(int fd, uint32_t events) noexcept;
    bool tires(int fd) noexcept;

    int epoll_;
    int wake_fd_;
    bool troubled_ = false;
    int64_t rests_until_ = -1;
    uint64_t looks_ = 0;
    std::vector<Slot> slots_; // by descriptor
    std::array<epoll_event, batch> events_;
};

} // namespace whisperer::core
