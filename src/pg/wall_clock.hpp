// Points in time: the core's and PostgreSQL's.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "datatype/timestamp.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

// Microseconds since the Unix epoch, as the core counts wall-clock time, and PostgreSQL's timestamps.
constexpr int64 postgres_epoch_micros = (int64)(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
inline TimestampTz to_timestamp(core::WallMicros wall) {
    return wall == INT64_MIN ? DT_NOBEGIN : wall - postgres_epoch_micros;
}
inline core::WallMicros to_wall(TimestampTz time) {
    return time + postgres_epoch_micros;
}
// Of any thread.
inline core::WallMicros wall_clock() {
    return to_wall(GetCurrentTimestamp());
}

} // namespace whisperer::pg
