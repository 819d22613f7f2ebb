// An ordered set of deadlines whose members know their place, so that moving or removing one costs O(log n).
#pragma once

#include "core/no_postgres.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace whisperer::core {

// A binary heap of pointers to Items, each with `int64_t wake` (its key) and `size_t heap_index` (kept here).
template <typename Item> class DeadlineHeap {
  public:
    static constexpr size_t outside = SIZE_MAX;

    bool empty() const noexcept { return items_.empty(); }
    Item *top() const noexcept { return items_.front(); }
    const std::vector<Item *> &all() const noexcept { return items_; }

    // Throws std::bad_alloc, and then nothing has changed.
    void insert(Item *item) {
        items_.push_back(item);
        item->heap_index = items_.size() - 1;
        rise(item->heap_index);
    }

    // To be called after the key of a member was changed.
    void moved(Item *item) noexcept {
        rise(item->heap_index);
        sink(item->heap_index);
    }

    void remove(Item *item) noexcept {
        if (item->heap_index == outside)
            return;
        const size_t hole = item->heap_index;
        item->heap_index = outside;
        Item *last = items_.back();
        items_.pop_back();
        if (last == item)
            return;
        place(hole, last);
        moved(last);
    }

  private:
    void place(size_t index, Item *item) noexcept {
        items_[index] = item;
        item->heap_index = index;
    }

    void rise(size_t index) noexcept {
        Item *item = items_[index];
        while (index > 0 && items_[(index - 1) / 2]->wake > item->wake) {
            place(index, items_[(index - 1) / 2]);
            index = (index - 1) / 2;
        }
        place(index, item);
    }

    void sink(size_t index) noexcept {
        Item *item = items_[index];
        for (;;) {
            size_t child = 2 * index + 1;
            if (child >= items_.size())
                break;
            if (child + 1 < items_.size() && items_[child + 1]->wake < items_[child]->wake)
                child++;
            if (items_[child]->wake >= item->wake)
                break;
            place(index, items_[child]);
            index = child;
        }
        place(index, item);
    }

    std::vector<Item *> items_;
};

} // namespace whisperer::core
