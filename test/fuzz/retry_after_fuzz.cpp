// Whatever the text and the clock: -1, or 1 second to one day.
#include "core/retry_after.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>

using namespace whisperer::core;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int64_t now = 1790000000;
    if (size >= sizeof(now) && data[0] % 4 == 0) { // else a clock that usual dates are near to
        memcpy(&now, data, sizeof(now));
        data += sizeof(now);
        size -= sizeof(now);
    }
    int seconds = parse_retry_after({reinterpret_cast<const char *>(data), size}, now);
    if (seconds != -1 && (seconds < 1 || seconds > max_retry_after_seconds))
        abort();
    return 0;
}
