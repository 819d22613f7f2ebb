#include "pg/prelude.hpp"

#include "pg/worker_slots.hpp"

#include "pg/compat.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "storage/procarray.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

uint32 departures_wait_event = 0;

bool barred_locked(Oid database) {
    for (const auto &bar : roster->bars)
        if (OidIsValid(database) && bar.database == database)
            return true;
    return false;
}

DatabaseSlot *database_locked(Oid database) {
    for (int i = 0; i < roster->database_capacity; i++)
        if (OidIsValid(database) && roster->databases[i].database == database)
            return &roster->databases[i];
    return nullptr;
}

// A delivery worker is announced in its database's slot, where sessions find it, from the reservation to its
// end.
void announce_locked(const WorkerSlot &slot, uint32 old_value, uint32 new_value) {
    DatabaseSlot *database = slot.kind == WorkerKind::delivery ? database_locked(slot.database) : nullptr;
    if (database != nullptr && pg_atomic_read_u32(&database->delivery_slot[slot.shard]) == old_value)
        pg_atomic_write_u32(&database->delivery_slot[slot.shard], new_value);
}

void free_locked(WorkerSlot *slot) {
    slot->kind = WorkerKind::none;
    slot->pid = 0;
    slot->latch = nullptr;
    slot->finished = false;
}

void fill_locked(WorkerSlot *slot, const SlotRequest &request, uint32 ticket) {
    slot->kind = request.kind;
    slot->ticket = ticket;
    slot->database = request.database;
    slot->extension = request.extension;
    slot->shard = request.shard;
    slot->shards = request.shards;
    slot->generation = request.generation;
    slot->pid = 0;
    slot->latch = nullptr;
    slot->finished = false;
    slot->answered = false;
    slot->exit_code = 0;
    slot->started = slot->last_activity = 0;
    slot->serving = InvalidOid;
    slot->overrun = false;
    pg_atomic_write_u32(&slot->leaving, 0);
    strlcpy(slot->state, "starting", sizeof(slot->state));
    pg_atomic_write_u32(&slot->stop, STOP_NONE);
    pg_atomic_write_u32(&slot->in_flight, 0);
    pg_atomic_write_u32(&slot->reload_subscriptions, 0);
    pg_atomic_write_u32(&slot->all_dirty, 0);
    for (auto &word : slot->dirty)
        pg_atomic_write_u64(&word, 0);
}

void stop_locked(Oid database, StopReason reason) {
    for (int i = 0; i < roster->worker_capacity; i++) {
        WorkerSlot &slot = roster->workers[i];
        if (slot.kind == WorkerKind::none || slot.finished || slot.database != database)
            continue;
        if (pg_atomic_read_u32(&slot.stop) < reason)
            pg_atomic_write_u32(&slot.stop, reason);
        if (slot.latch != nullptr)
            SetLatch(slot.latch);
    }
}

// Processes that are in the database. A reservation is not: its process will see the bar before it enters.
bool occupied(Oid database) {
    bool result = false;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (int i = 0; i < roster->worker_capacity; i++) {
        const WorkerSlot &slot = roster->workers[i];
        result = result || (slot.kind != WorkerKind::none && !slot.finished && slot.pid != 0 &&
                            slot.database == database);
    }
    LWLockRelease(roster->lock);
    return result;
}

} // namespace

int slot_reserve(const SlotRequest &request, uint32 *ticket) {
    int index = -1;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    for (int i = 0; i < roster->worker_capacity && index < 0; i++)
        if (roster->workers[i].kind == WorkerKind::none)
            index = i;
    if (index >= 0 && barred_locked(request.database))
        index = -1;
    if (index >= 0) {
        *ticket = roster->next_ticket++;
        fill_locked(&roster->workers[index], request, *ticket);
        announce_locked(roster->workers[index], 0, static_cast<uint32>(index) + 1);
    }
    LWLockRelease(roster->lock);
    return index;
}

bool slot_abandon(int index, uint32 ticket) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    WorkerSlot &slot = roster->workers[index];
    bool reserved = slot.ticket == ticket && slot.kind != WorkerKind::none && slot.pid == 0 && !slot.finished;
    if (reserved) {
        announce_locked(slot, static_cast<uint32>(index) + 1, 0);
        free_locked(&slot);
    }
    LWLockRelease(roster->lock);
    return reserved;
}

bool slot_attach(int index, uint32 ticket, WorkerKind kind) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    WorkerSlot &slot = roster->workers[index];
    bool mine = slot.ticket == ticket && slot.kind == kind && slot.pid == 0 && !slot.finished;
    bool enter = mine && !barred_locked(slot.database);
    if (enter) {
        slot.pid = MyProcPid;
        slot.latch = MyLatch;
        slot.started = slot.last_activity = GetCurrentTimestamp();
        if (kind == WorkerKind::launcher)
            roster->launcher_latch = MyLatch;
    } else if (mine) {
        announce_locked(slot, static_cast<uint32>(index) + 1, 0);
        slot.finished = true;
        slot.exit_code = 0;
        if (roster->launcher_latch != nullptr)
            SetLatch(roster->launcher_latch);
    }
    LWLockRelease(roster->lock);
    return enter;
}

void slot_detach(int index, int exit_code) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    WorkerSlot &slot = roster->workers[index];
    announce_locked(slot, static_cast<uint32>(index) + 1, 0);
    slot.latch = nullptr;
    slot.finished = true;
    slot.exit_code = exit_code;
    if (slot.kind == WorkerKind::launcher) {
        roster->launcher_latch = nullptr;
        free_locked(&slot);
    }
    if (roster->launcher_latch != nullptr)
        SetLatch(roster->launcher_latch);
    LWLockRelease(roster->lock);
    ConditionVariableBroadcast(&roster->departures);
}

bool slot_take_finished(SlotEnd *end) {
    bool found = false;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    for (int i = 0; i < roster->worker_capacity && !found; i++) {
        WorkerSlot &slot = roster->workers[i];
        if (slot.kind == WorkerKind::none || !slot.finished)
            continue;
        *end = {slot.kind,     slot.database, slot.shard,     slot.exit_code, slot.overrun,
                slot.pid != 0, slot.answered, slot.extension, slot.started};
        free_locked(&slot);
        found = true;
    }
    LWLockRelease(roster->lock);
    return found;
}

int slot_count(WorkerKind kind, Oid database) {
    int count = 0;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (int i = 0; i < roster->worker_capacity; i++) {
        const WorkerSlot &slot = roster->workers[i];
        if (slot.kind != WorkerKind::none && !slot.finished &&
            (kind == WorkerKind::none || slot.kind == kind) &&
            (!OidIsValid(database) || slot.database == database))
            count++;
    }
    LWLockRelease(roster->lock);
    return count;
}

uint32 slot_shards_present(Oid database) {
    uint32 present = 0;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (int i = 0; i < roster->worker_capacity; i++) {
        const WorkerSlot &slot = roster->workers[i];
        if (slot.kind == WorkerKind::delivery && slot.database == database)
            present |= 1u << slot.shard;
    }
    LWLockRelease(roster->lock);
    return present;
}

bool slot_serve(WorkerSlot *slot, Oid owner) {
    bool taken = false;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    for (int i = 0; i < roster->worker_capacity; i++) {
        const WorkerSlot &other = roster->workers[i];
        taken = taken || (other.kind == slot->kind && other.database == slot->database && !other.finished &&
                          other.serving == owner);
    }
    if (!taken)
        slot->serving = owner;
    LWLockRelease(roster->lock);
    return !taken;
}

void slot_serve_end(WorkerSlot *slot) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    slot->serving = InvalidOid;
    LWLockRelease(roster->lock);
}

bool slot_wake_idle(WorkerKind kind, Oid database) {
    bool found = false;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (int i = 0; i < roster->worker_capacity && !found; i++) {
        WorkerSlot &slot = roster->workers[i];
        found = slot.kind == kind && slot.database == database && !slot.finished &&
                !OidIsValid(slot.serving) && pg_atomic_read_u32(&slot.leaving) == 0;
        if (found && slot.latch != nullptr)
            SetLatch(slot.latch);
    }
    LWLockRelease(roster->lock);
    return found;
}

void slot_stop(Oid database, StopReason reason) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    stop_locked(database, reason);
    LWLockRelease(roster->lock);
}

bool bar_set(Oid database) {
    Roster::Bar *free_bar = nullptr;
    bool mine = false;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    for (auto &bar : roster->bars) {
        mine = mine || (bar.database == database && bar.by == MyProcPid);
        if (free_bar == nullptr && !OidIsValid(bar.database))
            free_bar = &bar;
    }
    if (!mine && free_bar != nullptr)
        *free_bar = {database, MyProcPid};
    if (mine || free_bar != nullptr)
        stop_locked(database, STOP_BARRED);
    LWLockRelease(roster->lock);
    return mine || free_bar != nullptr;
}

bool bar_wait(Oid database, long timeout_ms) {
    int64 deadline = monotonic_micros() + timeout_ms * INT64CONST(1000);
    ConditionVariablePrepareToSleep(&roster->departures);
    bool left = !occupied(database);
    while (!left) {
        long rest = static_cast<long>((deadline - monotonic_micros()) / 1000);
        if (rest <= 0)
            break;
        (void)ConditionVariableTimedSleep(&roster->departures, rest,
                                          compat_wait_event(&departures_wait_event, "WhispererDeparture"));
        left = !occupied(database);
    }
    ConditionVariableCancelSleep();
    return left;
}

namespace {

// Clears the bars that `gone` picks; the launcher looks at those databases again.
template <typename Gone> void bar_clear(Gone gone) {
    Oid freed[max_bars];
    int count = 0;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    for (auto &bar : roster->bars)
        if (OidIsValid(bar.database) && gone(bar.by)) {
            freed[count++] = bar.database;
            bar = {InvalidOid, 0};
        }
    LWLockRelease(roster->lock);
    for (int i = 0; i < count; i++)
        roster_look_at(freed[i]);
}

} // namespace

void bar_clear_mine() {
    bar_clear([](pid_t by) { return by == MyProcPid; });
}

void bar_clear_orphans() {
    pid_t holders[max_bars];
    int count = 0;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (const auto &bar : roster->bars)
        if (OidIsValid(bar.database))
            holders[count++] = bar.by;
    LWLockRelease(roster->lock);
    for (int i = 0; i < count; i++) // outside the lock: the process array has one of its own
        if (BackendPidGetProc(holders[i]) == nullptr) {
            pid_t gone = holders[i];
            bar_clear([gone](pid_t by) { return by == gone; });
        }
}

bool bar_holds(Oid database) {
    LWLockAcquire(roster->lock, LW_SHARED);
    bool result = barred_locked(database);
    LWLockRelease(roster->lock);
    return result;
}

} // namespace whisperer::pg
