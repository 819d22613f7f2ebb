// Recording for whoever sends without being the delivery worker. (The worker's side is in
// delivery_worker.hpp.)
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

struct RecordedCounts {
    uint64 attempts;  // requests made
    uint64 delivered; // of them
    uint64 failed;    // settled without success
    uint64 settled;
};

// Inside internal_begin(): writes all results of the outbox in the caller's transaction, whose rows they are,
// and takes them out of the outbox. A delivery to be sent again is left to the worker, which finds it when
// the transaction commits.
RecordedCounts record_in_session(core::Outbox *box);

} // namespace whisperer::pg
