#include "pg/prelude.hpp"

#include "pg/advisory_locks.hpp"
#include "pg/compat.hpp"

extern "C" {
#include "storage/lwlock.h"
#include "utils/guc.h"
}

namespace whisperer::pg {

namespace {

void add(AdvisoryLocks *locks, int *room, const PROCLOCK *held) {
    if (locks->count == *room) {
        *room = *room == 0 ? 8 : *room * 2;
        size_t size = sizeof(AdvisoryLocks::Held) * (size_t)*room;
        locks->items =
            (AdvisoryLocks::Held *)(locks->items == nullptr ? palloc(size) : repalloc(locks->items, size));
    }
    locks->items[locks->count++] = {held->tag.myLock->tag, held->holdMask};
}

LOCKMASK modes_before(const AdvisoryLocks &before, const LOCKTAG &tag) {
    for (int i = 0; i < before.count; i++)
        if (memcmp(&before.items[i].tag, &tag, sizeof(tag)) == 0)
            return before.items[i].modes;
    return 0;
}

} // namespace

AdvisoryLocks advisory_locks_held() {
    AdvisoryLocks locks = {nullptr, 0};
    int room = 0;
    for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++) {
        if (compat_no_own_locks(partition))
            continue;
        LWLock *lock = LockHashPartitionLockByIndex(partition);
        LWLockAcquire(lock, LW_SHARED);
        for (PROCLOCK *held = compat_next_own_lock(partition, nullptr); held != nullptr;
             held = compat_next_own_lock(partition, held))
            if (held->tag.myLock->tag.locktag_lockmethodid == USER_LOCKMETHOD)
                add(&locks, &room, held);
        LWLockRelease(lock);
    }
    return locks;
}

void advisory_locks_release_new(const AdvisoryLocks &before) {
    AdvisoryLocks now = advisory_locks_held();
    int level = -1;
    for (int i = 0; i < now.count; i++) {
        LOCKMASK added = now.items[i].modes & ~modes_before(before, now.items[i].tag);
        if (added == 0)
            continue;
        // The list does not tell session from transaction; releasing one of the transaction's does nothing
        // but warn.
        if (level < 0) {
            level = NewGUCNestLevel();
            for (const char *setting : {"client_min_messages", "log_min_messages"})
                (void)set_config_option(setting, "error", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                                        false);
        }
        for (LOCKMODE mode = 1; mode < MAX_LOCKMODES; mode++)
            if (added & LOCKBIT_ON(mode))
                (void)LockRelease(&now.items[i].tag, mode, true);
    }
    if (level >= 0)
        AtEOXact_GUC(false, level);
}

void advisory_locks_release_all() {
    LockReleaseSession(USER_LOCKMETHOD);
}

} // namespace whisperer::pg
