// whisperer.worker_list(): the processes, for the view whisperer.workers.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/roster.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

// What is shown of a slot, copied under the lock.
struct Row {
    WorkerKind kind;
    Oid database;
    pid_t pid;
    TimestampTz started;
    TimestampTz last_activity;
    uint32 in_flight;
    char state[sizeof(WorkerSlot::state)];
};

const char *kind_name(WorkerKind kind) {
    switch (kind) {
    case WorkerKind::launcher:
        return "launcher";
    case WorkerKind::probe:
        return "probe";
    case WorkerKind::delivery:
        return "delivery";
    case WorkerKind::maintenance:
        return "maintenance";
    case WorkerKind::callback:
        return "callback";
    case WorkerKind::countdown:
        return "countdown";
    case WorkerKind::none:
        break;
    }
    return "unknown";
}

int copy_rows(Row *rows) {
    int count = 0;
    LWLockAcquire(roster->lock, LW_SHARED);
    for (int i = 0; i < roster->worker_capacity; i++) {
        WorkerSlot &slot = roster->workers[i];
        if (slot.kind == WorkerKind::none || slot.finished)
            continue;
        Row &row = rows[count++];
        row = {slot.kind,
               slot.database,
               slot.pid,
               slot.started,
               slot.last_activity,
               pg_atomic_read_u32(&slot.in_flight),
               {}};
        memcpy(row.state, slot.state, sizeof(row.state));
        row.state[sizeof(row.state) - 1] = '\0';
        // A delivery worker writes its state when it wakes up; its other thread may have sent meanwhile.
        if (row.in_flight > 0 && strcmp(row.state, "idle") == 0)
            strlcpy(row.state, "sending", sizeof(row.state));
    }
    LWLockRelease(roster->lock);
    return count;
}

void put_row(ReturnSetInfo *result, const Row &row) {
    // The state was written by a process whose database may have another encoding.
    int length = static_cast<int>(strlen(row.state));
    const char *state = pg_verifymbstr(row.state, length, true) ? row.state : "?";
    const char *database = OidIsValid(row.database) ? get_database_name(row.database) : nullptr;
    Datum values[7] = {Int32GetDatum(row.pid),
                       database == nullptr ? Datum(0) : CStringGetTextDatum(database),
                       CStringGetTextDatum(kind_name(row.kind)),
                       CStringGetTextDatum(state),
                       TimestampTzGetDatum(row.started),
                       Int32GetDatum(static_cast<int32>(row.in_flight)),
                       TimestampTzGetDatum(row.last_activity)};
    bool nulls[7] = {row.pid == 0, database == nullptr,   false, false, row.started == 0,
                     false,        row.last_activity == 0};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

} // namespace

WHISPERER_SQL_FUNCTION(whisperer_worker_list) {
    Oid caller = GetUserId();
    access_check(caller, Access::monitor, nullptr);
    InitMaterializedSRF(fcinfo, 0);
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    auto *rows = static_cast<Row *>(palloc(sizeof(Row) * static_cast<size_t>(roster->worker_capacity)));
    int count = copy_rows(rows);
    for (int i = 0; i < count; i++)
        put_row(result, rows[i]);
    PG_RETURN_VOID();
}

} // namespace whisperer::pg
