#include "core/http_sockets.hpp"

#include <cerrno>
#include <cstring>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <new>
#include <stdexcept>
#include <sys/socket.h>
#include <unistd.h>

namespace whisperer::core {

namespace {

constexpr unsigned patience = 64;    // of finding a socket writable that is not written to
constexpr unsigned looks_again = 4;  // after a rest
constexpr int64_t short_rest = 5000; // microseconds

// How much has been written to a connection; 0 if the kernel (before 4.19) does not tell.
uint64_t written_to(int fd) noexcept {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return 0;
    return info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes;
}

uint16_t local_port_of(int fd) noexcept {
    sockaddr_in6 address{}; // large enough for both
    socklen_t size = sizeof address;
    if (getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size) != 0)
        return 0;
    // The port is at the same place in both.
    const bool inet = address.sin6_family == AF_INET || address.sin6_family == AF_INET6;
    return inet ? ntohs(address.sin6_port) : 0; // which is where sin_port is
}

bool leads_to(int fd, const Address &remote) noexcept {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    auto *general = reinterpret_cast<sockaddr *>(&address);
    Address found;
    return getpeername(fd, general, &size) == 0 && read_sockaddr(general, &found) && found.v6 == remote.v6 &&
           found.bytes == remote.bytes;
}

} // namespace

bool read_sockaddr(const sockaddr *from, Address *to) noexcept {
    *to = Address{};
    if (from->sa_family == AF_INET) {
        std::memcpy(to->bytes.data(), &reinterpret_cast<const sockaddr_in *>(from)->sin_addr, 4);
        return true;
    }
    if (from->sa_family == AF_INET6) {
        to->v6 = true;
        std::memcpy(to->bytes.data(), &reinterpret_cast<const sockaddr_in6 *>(from)->sin6_addr, 16);
        return true;
    }
    return false;
}

SocketSet::SocketSet(int wake_fd) : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_fd_(wake_fd) {
    if (epoll_ < 0)
        throw std::runtime_error("epoll_create1 failed");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wake_fd;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_fd, &event) != 0) {
        close(epoll_);
        throw std::runtime_error("epoll_ctl failed");
    }
}

SocketSet::~SocketSet() {
    close(epoll_);
}

bool SocketSet::opened(int fd, void *owner) noexcept {
    const auto index = static_cast<size_t>(fd);
    try {
        if (index >= slots_.size())
            slots_.resize(index + 64);
    } catch (const std::bad_alloc &) {
        return false;
    }
    slots_[index] = Slot();
    slots_[index].owner = owner;
    return true;
}

void SocketSet::closed(int fd) noexcept {
    // Closing takes it out of the epoll set.
    if (static_cast<size_t>(fd) < slots_.size())
        slots_[static_cast<size_t>(fd)] = Slot();
}

void SocketSet::apply(int fd) noexcept {
    watch(fd, slots_[static_cast<size_t>(fd)].wanted);
}

void SocketSet::watch(int fd, uint32_t events) noexcept {
    Slot &slot = slots_[static_cast<size_t>(fd)];
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (events == 0) {
        if (slot.registered != 0)
            epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, &event); // can fail only when it is not there
        slot.registered = 0;
        return;
    }
    const int operation = slot.registered == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll_, operation, fd, &event) == 0)
        slot.registered = events;
    else
        troubled_ = true;
}

void SocketSet::want(int fd, uint32_t events, bool may_speak) noexcept {
    if (static_cast<size_t>(fd) >= slots_.size() || slots_[static_cast<size_t>(fd)].owner == nullptr)
        return; // every socket is made through opened()
    Slot &slot = slots_[static_cast<size_t>(fd)];
    slot.wanted = events;
    slot.may_speak = may_speak;
    if (events != 0 && events != slot.registered)
        apply(fd);
}

// True when a socket has been found writable so often without being written to that it is left alone.
bool SocketSet::tires(int fd) noexcept {
    Slot &slot = slots_[static_cast<size_t>(fd)];
    if ((slot.wanted & EPOLLIN) == 0 || ++slot.writable < patience)
        return false;
    const uint64_t before = slot.written;
    slot.written = written_to(fd);
    const bool tired = slot.written == before;
    slot.writable = tired ? patience - looks_again : 0;
    return tired;
}

size_t SocketSet::wait(std::array<Ready, batch> &ready, bool *full, int64_t now) noexcept {
    const bool rested = rests_until_ >= 0 && now >= rests_until_;
    if (rested)
        rests_until_ = -1;
    if (troubled_ || rested) {
        troubled_ = false;
        for (size_t fd = 0; fd < slots_.size(); fd++)
            if (slots_[fd].wanted != slots_[fd].registered && slots_[fd].wanted != 0)
                apply(static_cast<int>(fd));
    }
    looks_++;
    // The only errors are EINTR and programming errors; after the former the next step() sees it.
    const int count = epoll_wait(epoll_, events_.data(), batch, 0);
    *full = count == batch;
    size_t filled = 0;
    for (int i = 0; i < count; i++) {
        const int fd = events_[static_cast<size_t>(i)].data.fd;
        const uint32_t events = events_[static_cast<size_t>(i)].events;
        if (fd == wake_fd_) {
            ready[filled++] = {fd, nullptr, events};
            continue;
        }
        Slot &slot = slots_[static_cast<size_t>(fd)];
        if (events != EPOLLOUT)
            slot.heard = looks_;
        if (slot.wanted == 0 && events == EPOLLOUT) {
            // It was waited for in order to write, which it may at any time: that says nothing.
            watch(fd, EPOLLIN);
            continue;
        }
        if (slot.wanted == 0) {
            // An idle connection was closed from the other side, which libcurl finds out when it looks at it;
            // or has said something, and libcurl, until 8.1, would take that for the answer to the next
            // request (RFC 9112, section 9.2, says not to). Shut down, it cannot be used again.
            if (!slot.may_speak)
                shutdown(fd, SHUT_RDWR); // ENOTCONN: it was reset
            apply(fd);
            continue;
        }
        if (events != EPOLLOUT) {
            slot.writable = 0;
            if (slot.registered != slot.wanted)
                apply(fd);
        } else if (tires(fd)) {
            watch(fd, EPOLLIN);
            if (rests_until_ < 0)
                rests_until_ = now + short_rest;
        }
        ready[filled++] = {fd, slot.owner, events};
    }
    return filled;
}

void SocketSet::shut_down_silent(const void *owner, const Since &since) noexcept {
    if (since.local_port == 0)
        return;
    for (size_t index = 0; index < slots_.size(); index++) {
        Slot &slot = slots_[index];
        const int fd = static_cast<int>(index);
        if (slot.owner != owner || slot.heard > since.look)
            continue;
        if (slot.local_port == 0)
            slot.local_port = local_port_of(fd);
        // Two connections to different addresses may have one port.
        if (slot.local_port == since.local_port && leads_to(fd, since.remote))
            shutdown(fd, SHUT_RDWR); // ENOTCONN: it was reset
    }
}

void SocketSet::shut_down_idle(const void *owner) noexcept {
    for (size_t fd = 0; fd < slots_.size(); fd++)
        if (slots_[fd].owner == owner && slots_[fd].wanted == 0)
            shutdown(static_cast<int>(fd), SHUT_RDWR); // ENOTCONN: closed from the other side already
}

} // namespace whisperer::core
