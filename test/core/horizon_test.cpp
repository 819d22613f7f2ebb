#include "horizon_model.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>
#include <vector>

using namespace whisperer::core;

namespace {

using Ranges = std::vector<std::pair<Xid, Xid>>;
using Shared = std::shared_ptr<const Snapshot>;

Shared snapshot(Xid xmin, Xid xmax, const std::vector<Xid> &running) {
    return Snapshot::make(xmin, xmax, running.data(), running.size());
}

Ranges between(const Shared &from, const Shared &to) {
    std::vector<XidRange> ranges = {{1, 2}}; // to be replaced
    EXPECT_TRUE(visible_since(from.get(), *to, &ranges));
    Ranges out;
    for (const XidRange &range : ranges)
        out.emplace_back(range.lo, range.hi);
    return out;
}

} // namespace

TEST(Horizon, Examples) {
    Shared start = snapshot(10, 10, {});
    Shared busy = snapshot(10, 15, {10, 12, 13});
    Shared later = snapshot(13, 20, {13, 16, 19});
    Shared quiet = snapshot(20, 20, {});
    EXPECT_EQ(between(nullptr, start), (Ranges{{0, 10}}));
    EXPECT_EQ(between(nullptr, busy), (Ranges{{0, 10}, {11, 12}, {14, 15}}));
    EXPECT_EQ(between(start, start), (Ranges{}));
    EXPECT_EQ(between(start, busy), (Ranges{{11, 12}, {14, 15}}));
    EXPECT_EQ(between(busy, later), (Ranges{{10, 11}, {12, 13}, {15, 16}, {17, 19}}));
    EXPECT_EQ(between(later, quiet), (Ranges{{13, 14}, {16, 17}, {19, 20}}));
    EXPECT_EQ(between(busy, quiet), (Ranges{{10, 11}, {12, 14}, {15, 20}}));
    // the last running one touches what began since
    EXPECT_EQ(between(snapshot(9, 10, {9}), quiet), (Ranges{{9, 20}}));
}

TEST(Horizon, OlderSnapshotsAddNothing) {
    Shared older = snapshot(10, 15, {10, 12});
    Shared newer = snapshot(20, 20, {});
    EXPECT_EQ(between(newer, older), (Ranges{}));
    EXPECT_EQ(between(older, older), (Ranges{}));
}

TEST(Horizon, MakeNormalises) {
    Shared made = snapshot(10, 15, {14, 9, 12, 15, 12, 99});
    EXPECT_EQ(made->running(), (std::vector<Xid>{12, 14}));
    EXPECT_EQ(made->xmin(), 10u);
    EXPECT_EQ(made->xmax(), 15u);
    EXPECT_TRUE(made->visible(9));
    EXPECT_FALSE(made->visible(12));
    EXPECT_FALSE(made->visible(15));
    EXPECT_EQ(Snapshot::make(3, 3, nullptr, 0)->running().size(), 0u);
}

TEST(Horizon, LargeNumbers) {
    constexpr Xid top = ~Xid{0};
    EXPECT_EQ(between(nullptr, snapshot(top - 2, top, {top - 1})), (Ranges{{0, top - 1}}));
    EXPECT_EQ(between(snapshot(top - 2, top, {top - 1}), snapshot(top, top, {})), (Ranges{{top - 1, top}}));
}

TEST(Horizon, AgreesWithTheDefinition) {
    std::mt19937 random(20);
    constexpr Xid limit = 40;
    auto draw = [&random](Xid below) { return static_cast<Xid>(random() % below); };
    for (int round = 0; round < 20000; round++) {
        SnapshotModel s[2];
        for (SnapshotModel &one : s) {
            one.xmin = draw(limit);
            one.xmax = one.xmin + draw(limit - one.xmin);
            size_t count = draw(8);
            for (size_t i = 0; i < count; i++)
                one.running.push_back(draw(limit)); // in any order, also outside of [xmin, xmax)
        }
        bool first_time = draw(10) == 0;
        Ranges ranges = between(first_time ? nullptr : s[0].shared(), s[1].shared());

        std::set<Xid> found;
        Xid end = 0;
        for (size_t i = 0; i < ranges.size(); i++) {
            ASSERT_LT(ranges[i].first, ranges[i].second);
            ASSERT_TRUE(i == 0 || ranges[i].first > end) << "not ascending, or not merged";
            end = ranges[i].second;
            for (Xid xid = ranges[i].first; xid < end; xid++)
                found.insert(xid);
        }
        for (Xid xid = 0; xid <= limit; xid++) {
            bool expected = s[1].visible(xid) && (first_time || !s[0].visible(xid));
            ASSERT_EQ(found.count(xid) == 1, expected) << "round " << round << ", xid " << xid;
        }
    }
}
