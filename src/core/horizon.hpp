// Which transactions became visible between two snapshots.
//
// The delivery worker finds new rows by the xid of the transaction that wrote them: what was running (or not
// yet begun) in the snapshot of its last look and is over in that of this one. "Visible" here is
// pg_visible_in_snapshot()'s sense: over, committed or not; rows of the aborted are invisible anyway.
#pragma once

#include "core/no_postgres.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace whisperer::core {

using Xid = uint64_t; // PostgreSQL's xid8

// [lo, hi)
struct XidRange {
    Xid lo;
    Xid hi;
};

inline bool operator==(const XidRange &a, const XidRange &b) noexcept {
    return a.lo == b.lo && a.hi == b.hi;
}

// Immutable, hence shared: each subscription remembers the one up to which it has read.
class Snapshot {
  public:
    // A copy of pg_current_snapshot(): everything below xmin is visible, nothing from xmax on, and of those
    // between all but `running` (in any order; entries outside [xmin, xmax) mean nothing and are dropped).
    // Null: out of memory.
    static std::shared_ptr<const Snapshot> make(Xid xmin, Xid xmax, const Xid *running,
                                                size_t count) noexcept;

    Xid xmin() const noexcept { return xmin_; }
    Xid xmax() const noexcept { return xmax_; }
    const std::vector<Xid> &running() const noexcept { return running_; } // ascending, distinct
    bool visible(Xid xid) const noexcept;

    Snapshot(Xid xmin, Xid xmax,
             std::vector<Xid> running) noexcept; // `running` as running() gives it; use make()

  private:
    Xid xmin_;
    Xid xmax_;
    std::vector<Xid> running_;
};

// Replaces *ranges by the xids visible in `to` and not in `from`: ascending, disjoint, adjacent ones merged,
// none empty. `from` null: nothing was visible, so the first range begins at 0. Right also when `from` is the
// newer one. False: out of memory, *ranges is unspecified.
bool visible_since(const Snapshot *from, const Snapshot &to, std::vector<XidRange> *ranges) noexcept;

} // namespace whisperer::core
