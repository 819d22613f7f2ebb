// Where a reader of changed rows has got to, by the transactions that changed them.
#pragma once

#include "core/horizon.hpp"

#include <memory>
#include <vector>

namespace whisperer::core {

// advance() says which transactions to look at, done() that their rows have been read. Without done() the
// next advance() says them again. One thread.
class ChangeCursor {
  public:
    static ChangeCursor *create() noexcept; // null: out of memory

    // Plans the reading of all that is visible in this snapshot and was not read before. False: out of
    // memory.
    bool advance(Xid xmin, Xid xmax, const Xid *running, size_t count) noexcept;
    size_t range_count() const noexcept { return ranges_.size(); }
    XidRange range(size_t index) const noexcept { return ranges_[index]; }
    void done() noexcept;
    // Everything is to be read again.
    void reset() noexcept { read_ = nullptr; }

  private:
    std::shared_ptr<const Snapshot> read_;
    std::shared_ptr<const Snapshot> planned_;
    std::vector<XidRange> ranges_;
};

} // namespace whisperer::core
