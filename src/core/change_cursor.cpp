#include "core/change_cursor.hpp"

#include <new>

namespace whisperer::core {

ChangeCursor *ChangeCursor::create() noexcept {
    return new (std::nothrow) ChangeCursor;
}

bool ChangeCursor::advance(Xid xmin, Xid xmax, const Xid *running, size_t count) noexcept {
    planned_ = Snapshot::make(xmin, xmax, running, count);
    return planned_ != nullptr && visible_since(read_.get(), *planned_, &ranges_);
}

void ChangeCursor::done() noexcept {
    read_ = std::move(planned_);
}

} // namespace whisperer::core
