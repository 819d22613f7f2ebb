// A snapshot's visibility by definition, to compare the core's with: for the unit tests and the fuzzer.
#pragma once

#include "core/horizon.hpp"

#include <algorithm>
#include <vector>

namespace whisperer::core {

// As PostgreSQL documents pg_visible_in_snapshot(): ended before, and not running, when it was taken.
// `running` may hold anything, in any order.
struct SnapshotModel {
    Xid xmin, xmax;
    std::vector<Xid> running;

    bool visible(Xid xid) const {
        return xid < xmin || (xid < xmax && std::find(running.begin(), running.end(), xid) == running.end());
    }
    std::shared_ptr<const Snapshot> shared() const {
        return Snapshot::make(xmin, xmax, running.data(), running.size());
    }
};

} // namespace whisperer::core
