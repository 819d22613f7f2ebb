#include "pg/prelude.hpp"

#include "pg/launcher_parts.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
}

namespace whisperer::pg {

namespace {

// A lack of slots that lasts is said again after this, microseconds.
constexpr int64 say_again = INT64CONST(3600) * 1000 * 1000;

// Registered, not yet seen to run. The postmaster forgets a process it could not fork; its slot must not stay
// reserved.
struct Pending {
    int index;
    uint32 ticket;
    WorkerKind kind;
    Oid database;
    BackgroundWorkerHandle *handle; // null: unused
};

Pending *pending = nullptr;
int pending_capacity = 0;

Pending *pending_room() {
    for (int i = 0; i < pending_capacity; i++)
        if (pending[i].handle == nullptr)
            return &pending[i];
    int capacity = pending_capacity + 16;
    size_t size = static_cast<size_t>(capacity) * sizeof(Pending);
    pending = static_cast<Pending *>(pending == nullptr ? MemoryContextAlloc(TopMemoryContext, size)
                                                        : repalloc(pending, size));
    memset(&pending[pending_capacity], 0, 16 * sizeof(Pending));
    Pending *room = &pending[pending_capacity];
    pending_capacity = capacity;
    return room;
}

void describe(BackgroundWorker *worker, const Entry *entry, const SlotRequest &request) {
    switch (request.kind) {
    case WorkerKind::probe:
        strlcpy(worker->bgw_function_name, "whisperer_probe_main", BGW_MAXLEN);
        strlcpy(worker->bgw_type, "whisperer probe", BGW_MAXLEN);
        snprintf(worker->bgw_name, BGW_MAXLEN, "whisperer probe of %s", entry->name);
        break;
    case WorkerKind::maintenance:
        strlcpy(worker->bgw_function_name, "whisperer_maintenance_main", BGW_MAXLEN);
        strlcpy(worker->bgw_type, "whisperer maintenance", BGW_MAXLEN);
        snprintf(worker->bgw_name, BGW_MAXLEN, "whisperer maintenance of %s", entry->name);
        break;
    case WorkerKind::callback:
        strlcpy(worker->bgw_function_name, "whisperer_callback_main", BGW_MAXLEN);
        strlcpy(worker->bgw_type, "whisperer callback", BGW_MAXLEN);
        snprintf(worker->bgw_name, BGW_MAXLEN, "whisperer callback of %s", entry->name);
        break;
    case WorkerKind::countdown:
        strlcpy(worker->bgw_function_name, "whisperer_countdown_main", BGW_MAXLEN);
        strlcpy(worker->bgw_type, "whisperer countdown", BGW_MAXLEN);
        snprintf(worker->bgw_name, BGW_MAXLEN, "whisperer countdown of %s", entry->name);
        break;
    default:
        strlcpy(worker->bgw_function_name, "whisperer_delivery_main", BGW_MAXLEN);
        strlcpy(worker->bgw_type, "whisperer delivery", BGW_MAXLEN);
        snprintf(worker->bgw_name, BGW_MAXLEN, "whisperer delivery %d/%d of %s", request.shard + 1,
                 request.shards, entry->name);
        break;
    }
}

const char *consequence(WorkerKind kind) {
    switch (kind) {
    case WorkerKind::probe:
        return "Whether it has the extension cannot be found out now. It is tried again from time to time.";
    case WorkerKind::maintenance:
        return "Settled deliveries older than whisperer.retention stay. It is tried again from time to time.";
    case WorkerKind::callback:
        return "Callbacks wait, or owners wait for each other's. It is tried again from time to time.";
    case WorkerKind::countdown:
        return "Retries go by the default schedule. It is tried again from time to time.";
    default:
        return "Its deliveries wait. It is tried again from time to time.";
    }
}

// Once, whatever process lacks a slot: where slots are short they come and go. Again only when it lasts.
void say_no_slot(const Entry *entry, WorkerKind kind) {
    static int64 said_at = 0;
    int64 now = monotonic_micros();
    if (said_at != 0 && now - said_at < say_again)
        return;
    said_at = now;
    ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                      errmsg("whisperer has no background worker slot for database \"%s\"", entry->name),
                      errdetail("%s", consequence(kind)),
                      errhint("Increase max_worker_processes (now %d): whisperer needs one for itself, "
                              "whisperer.workers for each database that has it, and one to spare.",
                              max_worker_processes)));
}

} // namespace

bool process_register(Entry *entry, const SlotRequest &request) {
    Pending *room = pending_room();
    uint32 ticket = 0;
    int index = slot_reserve(request, &ticket);
    if (index >= 0) {
        BackgroundWorker worker = {};
        worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
        worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
        worker.bgw_restart_time = BGW_NEVER_RESTART; // the launcher alone restarts
        worker.bgw_main_arg = Int32GetDatum(index);
        worker.bgw_notify_pid = MyProcPid;
        strlcpy(worker.bgw_library_name, "whisperer", BGW_MAXLEN);
        memcpy(worker.bgw_extra, &ticket, sizeof(ticket));
        describe(&worker, entry, request);

        MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
        BackgroundWorkerHandle *handle = nullptr;
        bool registered = RegisterDynamicBackgroundWorker(&worker, &handle);
        MemoryContextSwitchTo(caller);
        if (registered) {
            *room = {index, ticket, request.kind, request.database, handle};
            return true;
        }
        (void)slot_abandon(index, ticket);
    } else if (bar_holds(request.database)) {
        return false;
    }

    say_no_slot(entry, request.kind);
    return false;
}

void process_check_pending(void (*not_started)(WorkerKind kind, Oid database)) {
    for (int i = 0; i < pending_capacity; i++) {
        if (pending[i].handle == nullptr)
            continue;
        pid_t pid;
        BgwHandleStatus status = GetBackgroundWorkerPid(pending[i].handle, &pid);
        if (status == BGWH_NOT_YET_STARTED)
            continue;
        if (status == BGWH_STOPPED && slot_abandon(pending[i].index, pending[i].ticket))
            not_started(pending[i].kind, pending[i].database);
        pfree(pending[i].handle);
        pending[i].handle = nullptr;
    }
}

void process_abandon_all() {
    for (int i = 0; i < roster->worker_capacity; i++) {
        LWLockAcquire(roster->lock, LW_SHARED);
        const WorkerSlot &slot = roster->workers[i];
        bool reserved = slot.kind != WorkerKind::none && slot.kind != WorkerKind::launcher && slot.pid == 0;
        uint32 ticket = slot.ticket;
        LWLockRelease(roster->lock);
        if (reserved)
            (void)slot_abandon(i, ticket);
    }
}

} // namespace whisperer::pg
