#include "arrivals.hpp"

#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace bench {

namespace {

[[noreturn]] void die(const char *what) {
    std::perror(what);
    std::exit(1);
}

void watch(int epoll, int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
}

// The number after a name, or -1.
long number_after(const std::string &text, const char *name, size_t end) {
    const size_t at = text.find(name);
    return at == std::string::npos || at > end ? -1 : std::atol(text.c_str() + at + std::strlen(name));
}

} // namespace

double now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

Arrivals::Arrivals(int port, size_t events)
    : times_(events), listener_(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int yes = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (listener_ < 0 || epoll_ < 0 ||
        bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
        listen(listener_, 4096) != 0)
        die("receiver");
    watch(epoll_, listener_);
    thread_ = std::thread([this] { run(); });
}

Arrivals::~Arrivals() {
    stop_ = true;
    thread_.join();
    for (const auto &entry : buffers_)
        close(entry.first);
    close(listener_);
    close(epoll_);
}

bool Arrivals::wait(size_t count, double seconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    return arrived_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return count_ >= count; });
}

void Arrivals::run() {
    while (!stop_) {
        epoll_event ready[64];
        const int count = epoll_wait(epoll_, ready, 64, 100);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener_)
                accept_all();
            else
                read_some(ready[i].data.fd);
        }
    }
}

void Arrivals::accept_all() {
    int fd;
    while ((fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        const int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        buffers_[fd];
        watch(epoll_, fd);
    }
}

void Arrivals::read_some(int fd) {
    char chunk[16384];
    const ssize_t size = read(fd, chunk, sizeof chunk);
    const double time = now();
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        buffers_.erase(fd);
        close(fd);
        return;
    }
    std::string &buffer = buffers_[fd];
    buffer.append(chunk, static_cast<size_t>(size));
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    while (take_request(&buffer, time))
        if (write(fd, answer, sizeof answer - 1) != static_cast<ssize_t>(sizeof answer - 1))
            trouble_ = true;
}

bool Arrivals::take_request(std::string *buffer, double time) {
    const size_t head = buffer->find("\r\n\r\n");
    if (head == std::string::npos)
        return false;
    const long length = number_after(*buffer, "Content-Length: ", head);
    const size_t whole = head + 4 + static_cast<size_t>(length < 0 ? 0 : length);
    if (buffer->size() < whole)
        return false;
    const long event = number_after(*buffer, "\"n\": ", whole);
    if (length < 0 || event < 0 || static_cast<size_t>(event) >= times_.size() || times_[event] != 0)
        trouble_ = true;
    else {
        times_[event] = time;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            count_++;
        }
        arrived_.notify_all();
    }
    buffer->erase(0, whole);
    return true;
}

} // namespace bench
