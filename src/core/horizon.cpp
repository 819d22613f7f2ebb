#include "core/horizon.hpp"

#include <algorithm>
#include <exception>
#include <utility>

namespace whisperer::core {

namespace {

// Appends [lo, hi), joined to the last range when they touch. Ranges come in ascending order.
void append(std::vector<XidRange> *ranges, Xid lo, Xid hi) {
    if (lo >= hi)
        return;
    if (!ranges->empty() && ranges->back().hi == lo)
        ranges->back().hi = hi;
    else
        ranges->push_back({lo, hi});
}

} // namespace

Snapshot::Snapshot(Xid xmin, Xid xmax, std::vector<Xid> running) noexcept
    : xmin_(xmin), xmax_(xmax), running_(std::move(running)) {}

std::shared_ptr<const Snapshot> Snapshot::make(Xid xmin, Xid xmax, const Xid *running,
                                               size_t count) noexcept {
    try {
        std::vector<Xid> kept;
        kept.reserve(count);
        for (size_t i = 0; i < count; i++)
            if (running[i] >= xmin && running[i] < xmax)
                kept.push_back(running[i]);
        std::sort(kept.begin(), kept.end());
        kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
        return std::make_shared<const Snapshot>(xmin, xmax, std::move(kept));
    } catch (const std::exception &) {
        return nullptr;
    }
}

bool Snapshot::visible(Xid xid) const noexcept {
    return xid < xmax_ && !std::binary_search(running_.begin(), running_.end(), xid);
}

bool visible_since(const Snapshot *from, const Snapshot &to, std::vector<XidRange> *ranges) noexcept {
    try {
        ranges->clear();
        Xid begin = 0;
        if (from != nullptr) {
            // Those that ran then and are over now; all of them are below from->xmax().
            for (Xid xid : from->running())
                if (to.visible(xid))
                    append(ranges, xid, xid + 1);
            begin = from->xmax();
        }
        // Those begun since, and over already: what lies between the running ones.
        auto running = std::lower_bound(to.running().begin(), to.running().end(), begin);
        for (; running != to.running().end(); ++running) {
            append(ranges, begin, *running);
            begin = *running + 1;
        }
        append(ranges, begin, to.xmax());
        return true;
    } catch (const std::exception &) {
        return false;
    }
}

} // namespace whisperer::core
