#include "pg/prelude.hpp"

#include "pg/roster.hpp"

#include "pg/compat.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

static_assert(std::is_trivially_destructible_v<Roster> && std::is_trivially_destructible_v<DatabaseSlot> &&
                  std::is_trivially_destructible_v<WorkerSlot>,
              "shared memory holds plain data only");

Roster *roster = nullptr;

namespace {

constexpr const char *tranche = "whisperer";

shmem_request_hook_type previous_shmem_request = nullptr;
shmem_startup_hook_type previous_shmem_startup = nullptr;

// The slot found last, valid while it still names this database.
DatabaseSlot *cached_database = nullptr;

uint32 settled_wait_event = 0;

// Every process of ours is one of max_worker_processes; as many again may be waiting for the launcher to read
// how they ended.
int worker_capacity() {
    return 2 * max_worker_processes;
}

Size databases_offset() {
    return MAXALIGN(sizeof(Roster));
}

Size workers_offset() {
    return add_size(databases_offset(), MAXALIGN(mul_size(sizeof(DatabaseSlot), setting_max_databases)));
}

Size roster_size() {
    return add_size(workers_offset(), mul_size(sizeof(WorkerSlot), worker_capacity()));
}

void request_shared_memory() {
    if (previous_shmem_request != nullptr)
        previous_shmem_request();
    RequestAddinShmemSpace(roster_size());
    RequestNamedLWLockTranche(tranche, 1);
}

void init_database(DatabaseSlot *slot) {
    slot->database = InvalidOid;
    slot->generation = 0;
    for (auto &index : slot->delivery_slot)
        pg_atomic_init_u32(&index, 0);
    pg_atomic_init_u32(&slot->shards, 1);
    pg_atomic_init_u32(&slot->enabled, 0);
    for (auto &counter : slot->counters)
        pg_atomic_init_u64(&counter, 0);
    pg_atomic_init_u32(&slot->counters_loaded, 0);
    pg_atomic_init_u32(&slot->recalls, 0);
    slot->stats_reset = 0;
    ConditionVariableInit(&slot->settled);
    for (int i = 0; i < job_kinds; i++) {
        pg_atomic_init_u32(&slot->jobs_written[i], 0);
        pg_atomic_init_u32(&slot->workers_wanted[i], 0);
    }
    slot->overrun_count = 0;
}

void init_worker(WorkerSlot *slot) {
    memset(static_cast<void *>(slot), 0, sizeof(*slot));
    slot->kind = WorkerKind::none;
    pg_atomic_init_u32(&slot->stop, STOP_NONE);
    pg_atomic_init_u32(&slot->in_flight, 0);
    pg_atomic_init_u32(&slot->reload_subscriptions, 0);
    pg_atomic_init_u32(&slot->all_dirty, 0);
    pg_atomic_init_u32(&slot->leaving, 0);
    for (auto &word : slot->dirty)
        pg_atomic_init_u64(&word, 0);
}

void start_shared_memory() {
    if (previous_shmem_startup != nullptr)
        previous_shmem_startup();

    bool found = false;
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    auto *memory = static_cast<char *>(ShmemInitStruct("whisperer", roster_size(), &found));
    auto *shared = reinterpret_cast<Roster *>(memory);
    if (!found) {
        memset(static_cast<void *>(shared), 0, sizeof(*shared));
        shared->lock = &GetNamedLWLockTranche(tranche)->lock;
        shared->next_ticket = 1;
        ConditionVariableInit(&shared->departures);
        shared->database_capacity = setting_max_databases;
        shared->worker_capacity = worker_capacity();
        shared->databases = reinterpret_cast<DatabaseSlot *>(memory + databases_offset());
        shared->workers = reinterpret_cast<WorkerSlot *>(memory + workers_offset());
        for (int i = 0; i < shared->database_capacity; i++)
            init_database(&shared->databases[i]);
        for (int i = 0; i < shared->worker_capacity; i++)
            init_worker(&shared->workers[i]);
    }
    LWLockRelease(AddinShmemInitLock);
    roster = shared;
}

DatabaseSlot *find_database(Oid database) {
    for (int i = 0; i < roster->database_capacity; i++)
        if (roster->databases[i].database == database)
            return &roster->databases[i];
    return nullptr;
}

void wake_launcher() {
    Latch *latch = roster->launcher_latch;
    if (latch != nullptr)
        SetLatch(latch);
}

// The worker slot of a shard, as far as it can be told without the lock: it may just have been given to
// somebody else, to whom a superfluous mark or wake does no harm.
WorkerSlot *shard_worker(DatabaseSlot *slot, int shard) {
    uint32 index = pg_atomic_read_u32(&slot->delivery_slot[shard]);
    return index == 0 ? nullptr : &roster->workers[index - 1];
}

void wake_worker(WorkerSlot *worker) {
    Latch *latch = worker->latch;
    if (latch != nullptr)
        SetLatch(latch);
}

} // namespace

void roster_init() {
    previous_shmem_request = shmem_request_hook;
    shmem_request_hook = request_shared_memory;
    previous_shmem_startup = shmem_startup_hook;
    shmem_startup_hook = start_shared_memory;
}

DatabaseSlot *roster_this_database() {
    if (cached_database != nullptr && cached_database->database == MyDatabaseId)
        return cached_database;
    cached_database = nullptr;
    if (roster == nullptr || !OidIsValid(MyDatabaseId))
        return nullptr;
    LWLockAcquire(roster->lock, LW_SHARED);
    cached_database = find_database(MyDatabaseId);
    LWLockRelease(roster->lock);
    return cached_database;
}

DatabaseSlot *roster_database_make(Oid database) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    DatabaseSlot *slot = find_database(database);
    if (slot == nullptr) {
        slot = find_database(InvalidOid);
        if (slot == nullptr) {
            roster->full = true;
        } else {
            for (auto &index : slot->delivery_slot)
                pg_atomic_write_u32(&index, 0);
            for (auto &counter : slot->counters)
                pg_atomic_write_u64(&counter, 0);
            pg_atomic_write_u32(&slot->counters_loaded, 0);
            slot->stats_reset = GetCurrentTimestamp();
            slot->generation = 0;
            slot->overrun_count = 0;
            pg_atomic_write_u32(&slot->enabled, setting_enabled ? 1 : 0);
            slot->database = database;
        }
    }
    LWLockRelease(roster->lock);
    return slot;
}

void roster_database_free(Oid database) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    DatabaseSlot *slot = find_database(database);
    if (slot != nullptr)
        slot->database = InvalidOid;
    LWLockRelease(roster->lock);
    if (slot != nullptr)
        ConditionVariableBroadcast(&slot->settled);
}

DatabaseSlot *roster_database_find(Oid database) {
    LWLockAcquire(roster->lock, LW_SHARED);
    DatabaseSlot *slot = find_database(database);
    LWLockRelease(roster->lock);
    return slot;
}

DatabaseSlot *roster_this_database_make() {
    DatabaseSlot *slot = roster_this_database();
    if (slot == nullptr && roster != nullptr && OidIsValid(MyDatabaseId)) {
        slot = cached_database = roster_database_make(MyDatabaseId);
        roster_look_at(MyDatabaseId);
    }
    return slot;
}

void roster_count(Counter counter, uint64 amount) {
    DatabaseSlot *slot = amount == 0 ? nullptr : roster_this_database();
    if (slot != nullptr)
        pg_atomic_fetch_add_u64(&slot->counters[counter], static_cast<int64>(amount));
}

void roster_mark_dirty(DatabaseSlot *slot, const uint64 *bits) {
    // The rows are visible already. A worker publishes its latch before it takes its first snapshot, and a
    // starting worker reads everything: whoever is not seen here sees the rows.
    pg_memory_barrier();
    uint32 shards = pg_atomic_read_u32(&slot->shards);
    WorkerSlot *wake[max_shards] =
        {}; // the very ones that were marked: who owns a shard may change meanwhile
    for (int word = 0; word < dirty_words; word++) {
        for (uint64 rest = bits[word]; rest != 0; rest &= rest - 1) {
            int position = __builtin_ctzll(rest);
            uint32 shard = static_cast<uint32>(word * 64 + position) % shards;
            WorkerSlot *worker = shard_worker(slot, static_cast<int>(shard));
            if (worker == nullptr)
                continue;
            // Found set, whoever set it wakes the worker, which has not looked since, and looks before it
            // waits (roster_is_marked), whatever became of its latch.
            uint64 bit = UINT64CONST(1) << position;
            if ((pg_atomic_fetch_or_u64(&worker->dirty[word], bit) & bit) == 0)
                wake[shard] = worker;
        }
    }
    for (WorkerSlot *worker : wake)
        if (worker != nullptr)
            wake_worker(worker);
}

void roster_mark_reload(DatabaseSlot *slot, bool everything) {
    pg_memory_barrier();
    for (int shard = 0; shard < max_shards; shard++) {
        WorkerSlot *worker = shard_worker(slot, shard);
        if (worker == nullptr)
            continue;
        pg_atomic_write_u32(&worker->reload_subscriptions, 1);
        if (everything)
            pg_atomic_write_u32(&worker->all_dirty, 1);
        wake_worker(worker);
    }
}

void roster_look_at(Oid database) {
    if (roster == nullptr)
        return;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    bool known = false;
    int count = Min(roster->look_at_count, max_look_at);
    for (int i = 0; i < count; i++)
        known = known || roster->look_at[i] == database;
    if (!OidIsValid(database) || (!known && roster->look_at_count >= max_look_at))
        roster->look_at_count = max_look_at + 1;
    else if (!known)
        roster->look_at[roster->look_at_count++] = database;
    wake_launcher();
    LWLockRelease(roster->lock);
}

void roster_broadcast_settled() {
    DatabaseSlot *slot = roster_this_database();
    if (slot != nullptr)
        ConditionVariableBroadcast(&slot->settled);
}

bool roster_settled_prepare() {
    DatabaseSlot *slot = roster_this_database();
    if (slot == nullptr)
        return false;
    ConditionVariablePrepareToSleep(&slot->settled);
    return true;
}

bool roster_settled_wait(long timeout_ms) {
    DatabaseSlot *slot = roster_this_database();
    if (slot == nullptr)
        return true;
    return !ConditionVariableTimedSleep(&slot->settled, timeout_ms,
                                        compat_wait_event(&settled_wait_event, "WhispererSettled"));
}

void roster_settled_cancel() {
    ConditionVariableCancelSleep();
}

bool roster_is_marked(WorkerSlot *slot, bool dirty) {
    if (pg_atomic_read_u32(&slot->reload_subscriptions) != 0)
        return true;
    if (dirty && pg_atomic_read_u32(&slot->all_dirty) != 0)
        return true;
    for (int word = 0; dirty && word < dirty_words; word++)
        if (pg_atomic_read_u64(&slot->dirty[word]) != 0)
            return true;
    return false;
}

bool roster_take_dirty(WorkerSlot *slot, uint64 bits[dirty_words]) {
    bool all = pg_atomic_exchange_u32(&slot->all_dirty, 0) != 0;
    for (int word = 0; word < dirty_words; word++)
        bits[word] =
            pg_atomic_read_u64(&slot->dirty[word]) == 0 ? 0 : pg_atomic_exchange_u64(&slot->dirty[word], 0);
    return all;
}

void roster_want_worker(DatabaseSlot *slot, JobKind kind) {
    pg_atomic_write_u32(&slot->workers_wanted[static_cast<int>(kind)], 1);
    wake_launcher();
}

void roster_say_enabled(DatabaseSlot *slot, bool enabled) {
    uint32 now = enabled ? 1 : 0;
    if (pg_atomic_exchange_u32(&slot->enabled, now) != now)
        wake_launcher();
}

// A worker that leaves says so and then looks at the count once more; here the count comes first and then the
// look whether somebody is there. One of the two sees the other.
void roster_jobs_written(JobKind kind) {
    DatabaseSlot *slot = roster_this_database();
    if (slot == nullptr)
        return;
    pg_atomic_fetch_add_u32(&slot->jobs_written[static_cast<int>(kind)], 1);
    pg_memory_barrier();
    bool somebody = false;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (int i = 0; i < roster->worker_capacity; i++) {
        WorkerSlot &worker = roster->workers[i];
        if (worker.kind != job_worker(kind) || worker.database != MyDatabaseId || worker.finished ||
            pg_atomic_read_u32(&worker.leaving) != 0)
            continue;
        somebody = true;
        wake_worker(&worker);
    }
    LWLockRelease(roster->lock);
    if (!somebody)
        roster_want_worker(slot, kind);
}

void roster_overrun_note(DatabaseSlot *slot, JobKind kind, const JobKey &job) {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    if (slot->overrun_count < max_overruns) // else it is done once more, and overruns again
        slot->overruns[slot->overrun_count++] = {kind, job};
    LWLockRelease(roster->lock);
}

bool roster_overrun_take(DatabaseSlot *slot, JobKind kind, JobKey *job) {
    bool found = false;
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    for (int i = 0; i < slot->overrun_count && !found; i++)
        if (slot->overruns[i].kind == kind) {
            *job = slot->overruns[i].job;
            slot->overruns[i] = slot->overruns[--slot->overrun_count];
            found = true;
        }
    LWLockRelease(roster->lock);
    return found;
}

bool roster_take_reload(WorkerSlot *slot) {
    return pg_atomic_exchange_u32(&slot->reload_subscriptions, 0) != 0;
}

} // namespace whisperer::pg
