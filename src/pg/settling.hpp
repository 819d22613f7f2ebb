// Settling: a delivery whose end has come leaves whisperer.delivery and becomes a row of whisperer.history.
//
// What the recorder does most, and therefore done without SQL: one index look-up, one deletion that does not
// wait and locks nothing first, and one row for the history, which are inserted many at once.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

struct Settling; // palloc'ed

enum class Settled : uint8_t {
    done,
    locked, // somebody has the row locked; nothing was done
    gone    // there is no such delivery any more: it was cancelled
};

// Inside internal_begin(), or in a worker's transaction. Results in the order of their uuids, so that those
// who lock several rows never wait for each other; in between no statement that reads the two tables.
Settling *settling_begin();
Settled settle(Settling *settling, const core::AttemptResult &result);
void settling_end(Settling *settling);

} // namespace whisperer::pg
