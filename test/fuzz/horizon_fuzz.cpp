// Whatever the snapshots: the ranges between two are exactly the transactions visible in one and not in the
// other; and a cursor that goes through many leaves none out and reads none twice.
#include "core/change_cursor.hpp"
#include "fuzz.hpp"
#include "horizon_model.hpp"

#include <set>
#include <vector>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

constexpr Xid universe = 80;

SnapshotModel take(Input &input) {
    SnapshotModel plain{};
    plain.xmin = input.byte() % 64;
    plain.xmax = plain.xmin + input.byte() % 16;
    plain.running.resize(input.byte() % 8);
    for (Xid &xid : plain.running)
        xid = plain.xmin + input.byte() % 20; // some of them behind xmax
    return plain;
}

std::set<Xid> members(const std::vector<XidRange> &ranges) {
    std::set<Xid> xids;
    Xid end = 0;
    for (const XidRange &range : ranges) {
        require(range.lo < range.hi && (range.lo > end || end == 0));
        end = range.hi;
        for (Xid xid = range.lo; xid < range.hi; xid++)
            xids.insert(xid);
    }
    return xids;
}

void compare(const SnapshotModel *from, const SnapshotModel &to) {
    const auto before = from == nullptr ? nullptr : from->shared();
    const auto after = to.shared();
    std::vector<XidRange> ranges;
    require(visible_since(before.get(), *after, &ranges));
    const std::set<Xid> found = members(ranges);
    for (Xid xid = 0; xid < universe; xid++)
        require((found.count(xid) == 1) == (to.visible(xid) && !(from != nullptr && from->visible(xid))));
    require(found.empty() || *found.rbegin() < universe);
}

// Time goes on: each snapshot sees what the one before saw, and more.
void read_on(Input &input) {
    ChangeCursor *cursor = ChangeCursor::create();
    require(cursor != nullptr);
    std::set<Xid> running;
    std::set<Xid> read;
    Xid next = 3;
    for (int round = 0; round < 12 && !input.empty(); round++) {
        for (int begun = input.byte() % 4; begun > 0; begun--)
            running.insert(next++);
        const uint8_t ended = input.byte();
        for (int bit = 0; bit < 8; bit++)
            if ((ended >> bit & 1) != 0 && bit < static_cast<int>(running.size()))
                running.erase(std::next(running.begin(), bit));
        const std::vector<Xid> now(running.begin(), running.end());
        require(cursor->advance(now.empty() ? next : now.front(), next, now.data(), now.size()));
        std::vector<XidRange> ranges;
        for (size_t i = 0; i < cursor->range_count(); i++)
            ranges.push_back(cursor->range(i));
        const std::set<Xid> found = members(ranges);
        if (input.byte() % 4 == 0)
            continue; // the reading failed: the same again, and more, at the next advance
        for (Xid xid : found)
            require(running.count(xid) == 0 && read.insert(xid).second);
        cursor->done();
        for (Xid xid = 0; xid < next; xid++)
            require(read.count(xid) + running.count(xid) == 1);
    }
    delete cursor;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const bool from_nothing = input.byte() % 8 == 0;
    const SnapshotModel from = take(input);
    const SnapshotModel to = take(input);
    compare(from_nothing ? nullptr : &from, to);
    read_on(input);
    return 0;
}
