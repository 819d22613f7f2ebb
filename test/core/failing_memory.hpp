// Memory that runs out, for tests: operator new of this program (out_of_memory_test.cpp) fails when it is
// told to.
//
// Only what C++ allocates, and only in the thread that asked for it; what libcurl and OpenSSL allocate never
// fails.
#pragma once

#include <dirent.h>

namespace whisperer::core::test {

// The next `passes` allocations that may fail do not, the `fails` after them do.
void plan_memory(long passes, long fails) noexcept;
// How many have failed since plan_memory().
long memory_failures() noexcept;

// While it lives, what this thread allocates may fail; or, within that, may not (a test's own callbacks).
class Memory {
  public:
    explicit Memory(bool may_fail) noexcept;
    ~Memory();
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

  private:
    bool before_;
};

// Calls `call` with its first allocation failing, then with its second, and so on, until it makes none that
// could; after each, `judge` with what it returned. How many there were.
template <typename Call, typename Judge> int try_each_allocation(Call call, Judge judge) {
    for (int number = 0;; number++) {
        plan_memory(number, 1);
        auto said = [&] {
            const Memory failing(true);
            return call();
        }();
        const bool failed = memory_failures() > 0;
        plan_memory(0, 0);
        judge(said, failed);
        if (!failed)
            return number;
    }
}

// Of this process: what was not made has left nothing open.
inline int open_files() {
    int count = 0;
    if (DIR *directory = opendir("/proc/self/fd")) {
        while (readdir(directory) != nullptr)
            count++;
        closedir(directory);
    }
    return count;
}

} // namespace whisperer::core::test
