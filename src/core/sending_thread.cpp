#include "core/sending_thread.hpp"

#include <csignal>
#include <cstdint>
#include <new>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace whisperer::core {

namespace {

// Fails only when the counter is full, and then it is readable anyway.
void ring(int fd) noexcept {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
}

// Fails only when nothing is there.
void silence(int fd) noexcept {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(fd, &count, sizeof(count));
}

} // namespace

SendingThread::SendingThread(Outbox *box, const Clocks &clocks, int news_fd, int wake_fd) noexcept
    : box_(box), clocks_(clocks), news_fd_(news_fd), wake_fd_(wake_fd) {}

SendingThread::~SendingThread() {
    stop();
    close(news_fd_);
    close(wake_fd_);
}

SendingThread *SendingThread::start(Outbox *box, const Clocks &clocks) noexcept {
    const int news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    SendingThread *made = nullptr;
    if (news_fd >= 0 && wake_fd >= 0)
        made = new (std::nothrow) SendingThread(box, clocks, news_fd, wake_fd);
    if (made != nullptr && made->run())
        return made;
    if (made != nullptr)
        delete made;
    else {
        close(news_fd);
        close(wake_fd);
    }
    return nullptr;
}

bool SendingThread::run() noexcept {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    auto main = [](void *self) -> void * {
        static_cast<SendingThread *>(self)->loop();
        return nullptr;
    };
    running_ = pthread_create(&thread_, nullptr, main, this) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (running_)
        pthread_setname_np(thread_, "whisperer send");
    return running_;
}

void SendingThread::stop() noexcept {
    if (!running_)
        return;
    stopping_ = true;
    ring(wake_fd_);
    pthread_join(thread_, nullptr);
    running_ = false;
}

void SendingThread::hear() noexcept {
    silence(news_fd_);
    told_.exchange(false); // in this order: what is told between is looked at after this anyway
}

void SendingThread::wake(bool sending, unsigned wanted, size_t enough_results) noexcept {
    box_->allow_sending(sending); // nothing starts after this if not
    sending_ = sending;
    wanted_ = wanted;
    enough_ = enough_results;
    if (!asked_.exchange(true))
        ring(wake_fd_);
}

void SendingThread::tell(bool sending) noexcept {
    const unsigned wanted = wanted_;
    if (wanted == 0 || told_)
        return;
    const size_t results = box_->result_count();
    unsigned news = 0;
    if (sending && (wanted & news_tables) != 0 && box_->wants_tables(clocks_.wall()))
        news |= news_tables;
    if (results > 0)
        news |= results >= enough_ ? news_results | news_enough : news_results;
    if ((news & wanted) == 0)
        return;
    // In this order: hear() may come between, and then the descriptor is readable once for nothing.
    told_ = true;
    ring(news_fd_);
}

void SendingThread::loop() noexcept {
    while (!stopping_) {
        asked_.exchange(false); // whoever asked before this is served by this round
        const bool sending = sending_;
        box_->step(clocks_.monotonic(), clocks_.wall());
        if (sending)
            box_->start(clocks_.monotonic(), clocks_.wall());
        tell(sending);
        // Last, so that nothing that ends a request comes between this and the wait.
        const int timeout = box_->timeout_ms(clocks_.monotonic(), clocks_.wall(), sending);
        pollfd ready[] = {{box_->engine()->wait_fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
        if (poll(ready, 2, timeout) > 0 && ready[1].revents != 0)
            silence(wake_fd_);
    }
}

} // namespace whisperer::core
