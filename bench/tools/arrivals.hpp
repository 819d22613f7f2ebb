// A receiver that knows to the microsecond when each event came: a thread that answers every POST with 200
// and notes when the one with `"n": 17` in its body arrived. (nginx writes milliseconds.)
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace bench {

double now(); // monotonic, seconds

class Arrivals {
  public:
    // Listens on that port of 127.0.0.1; events are numbered from 0. Exits the program when it cannot.
    Arrivals(int port, size_t events);
    ~Arrivals();
    Arrivals(const Arrivals &) = delete;
    Arrivals &operator=(const Arrivals &) = delete;

    size_t count() const { return count_; }
    // Blocks until so many arrived; false: not in so many seconds.
    bool wait(size_t count, double seconds);
    double at(size_t event) const { return times_[event]; } // 0: not yet
    bool trouble() const { return trouble_; }               // an event came twice, or what came was none

  private:
    void run();
    void accept_all();
    void read_some(int fd);
    // False: the request is not whole yet.
    bool take_request(std::string *buffer, double time);

    std::vector<std::atomic<double>> times_;
    std::atomic<size_t> count_{0};
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::atomic<bool> trouble_{false};
    std::atomic<bool> stop_{false};
    int listener_;
    int epoll_;
    std::unordered_map<int, std::string> buffers_;
    std::thread thread_;
};

} // namespace bench
