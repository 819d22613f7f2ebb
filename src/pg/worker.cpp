#include "pg/prelude.hpp"

#include "pg/worker.hpp"

#include "pg/compat.hpp"
#include "pg/worker_slots.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "common/file_perm.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

#include <sys/stat.h>
#include <time.h>

namespace whisperer::pg {

const char *const worker_directory = "pg_whisperer";

namespace {

WorkerSelf self_storage;
uint32 extension_wait_event = 0;
// Counts of rows that PostgreSQL keeps in this process: it hands them on once a second at most.
bool counts_kept_back = false;

constexpr int64 patience_of_sigterm = 300 * 1000;
volatile int64 first_sigterm = 0;

// See worker_start() in the header.
void handle_sigterm(SIGNAL_ARGS) {
    int saved_errno = errno;
    (void)postgres_signal_arg;
    // Two that come so soon after one another (somebody ends all sessions, and stops the server) are no
    // impatience: what is done at the end, saving the statistics for instance, is not to be cut off.
    int64 now = monotonic_micros();
    if (!ShutdownRequestPending)
        first_sigterm = now;
    else if (now - first_sigterm >= patience_of_sigterm) {
        ProcDiePending = true;
        InterruptPending = true;
    }
    ShutdownRequestPending = true;
    SetLatch(MyLatch);
    errno = saved_errno;
}

void at_exit(int code, Datum index) {
    slot_detach(DatumGetInt32(index), code);
}

// What a database's or role's own settings must not change for us, nor a reload.
void pin_settings() {
    static const struct {
        const char *name;
        const char *value;
    } pinned[] = {
        {"search_path", "pg_catalog, pg_temp"},
        {"default_transaction_isolation", "read committed"},
        {"default_transaction_read_only", "off"},
        {"default_transaction_deferrable", "off"},
        {"statement_timeout", "0"},
        {"idle_in_transaction_session_timeout", "0"},
        {"lock_timeout", "10s"},
        {"row_security", "off"},
        {"session_replication_role", "origin"},
        {"jit", "off"},
        // On disk here is enough: nobody waits for a synchronous standby, and while one does PostgreSQL does
        // not hear that it is to leave.
        {"synchronous_commit", "local"},
        {"client_min_messages", "warning"},
#if PG_VERSION_NUM >= 170000
        {"transaction_timeout", "0"},
#endif
    };
    for (const auto &setting : pinned)
        SetConfigOption(setting.name, setting.value, PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_OVERRIDE);
}

// As a database's or role's own settings may have made it somebody else, who may be allowed nothing. (Where a
// session has authenticated, PostgreSQL itself does not listen to session_authorization there.)
void pin_user() {
    SetConfigOption("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false), PGC_SUSET,
                    PGC_S_OVERRIDE);
    SetConfigOption("role", "none", PGC_SUSET, PGC_S_OVERRIDE);
}

void fill_self(int index) {
    WorkerSlot &slot = roster->workers[index];
    self_storage = {};
    self_storage.index = index;
    self_storage.slot = &slot;
    self_storage.kind = slot.kind;
    self_storage.database = slot.database;
    self_storage.extension = slot.extension;
    self_storage.shard = slot.shard;
    self_storage.shards = slot.shards;
    self_storage.generation = slot.generation;
}

void settle_in(WorkerSelf *self) {
    StartTransactionCommand();
    pin_user();
    const char *name = get_database_name(MyDatabaseId);
    strlcpy(self->database_name, name == nullptr ? "" : name, sizeof(self->database_name));
    CommitTransactionCommand();
}

bool extension_is_ours(const WorkerSelf *self) {
    return OidIsValid(self->extension) && get_extension_oid("whisperer", true) == self->extension;
}

// Takes the lock that keeps the extension from being dropped. Does not queue for it: whoever drops or updates
// the extension may keep the transaction open, and this process must hear when it is asked to leave.
bool lock_extension(WorkerSelf *self) {
    bool waited = false;
    for (;;) {
        SetCurrentStatementStartTimestamp();
        StartTransactionCommand();
        if (ConditionalLockDatabaseObject(ExtensionRelationId, self->extension, 0, AccessShareLock))
            break;
        CommitTransactionCommand();
        if (worker_must_stop(self))
            return false;
        waited = true;
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 200,
                        compat_wait_event(&extension_wait_event, "WhispererExtensionLock"));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
    if (waited)
        SetLatch(MyLatch); // the wake-ups swallowed above were meant for the caller's loop
    return true;
}

} // namespace

int64 monotonic_micros() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<int64>(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

int64 worker_asked_to_leave_at() {
    return first_sigterm;
}

WorkerSelf *worker_enter(int index, uint32 ticket, WorkerKind kind) {
    // Until it is connected, SIGTERM ends the process as it ends any other.
    pqsignal(SIGTERM, die);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    BackgroundWorkerUnblockSignals();

    if (!slot_attach(index, ticket, kind))
        proc_exit(0);
    // Before the connection is made: exit callbacks run in reverse order, so this one runs when the database
    // has been left.
    on_shmem_exit(at_exit, Int32GetDatum(index));
    fill_self(index);

    BackgroundWorkerInitializeConnectionByOid(self_storage.database, InvalidOid, 0);
    pqsignal(SIGTERM, handle_sigterm);
    pin_settings();
    if (OidIsValid(self_storage.database))
        settle_in(&self_storage);
    if (kind != WorkerKind::launcher && kind != WorkerKind::probe)
        self_storage.database_slot = roster_this_database();
    return &self_storage;
}

WorkerSelf *worker_start(Datum main_arg, WorkerKind kind) {
    int index = DatumGetInt32(main_arg);
    uint32 ticket;
    memcpy(&ticket, MyBgworkerEntry->bgw_extra, sizeof(ticket));
    if (roster == nullptr || index < 0 || index >= roster->worker_capacity)
        proc_exit(0);
    return worker_enter(index, ticket, kind);
}

bool worker_begin(WorkerSelf *self) {
    if (!lock_extension(self))
        return false;
    PushActiveSnapshot(GetTransactionSnapshot());
    if (!extension_is_ours(self)) {
        PopActiveSnapshot();
        CommitTransactionCommand();
        return false;
    }
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "whisperer could not connect to SPI");
    return true;
}

void worker_commit(WorkerSelf *) {
    if (SPI_finish() != SPI_OK_FINISH)
        elog(ERROR, "whisperer could not leave SPI");
    PopActiveSnapshot();
    CommitTransactionCommand();
    counts_kept_back = pgstat_report_stat(false) > 0;
}

void worker_rollback(WorkerSelf *) {
    AbortCurrentTransaction();
    counts_kept_back = pgstat_report_stat(false) > 0;
}

bool worker_must_stop(const WorkerSelf *self) {
    return ShutdownRequestPending || pg_atomic_read_u32(&self->slot->stop) != STOP_NONE;
}

StopReason worker_stop_reason(const WorkerSelf *self) {
    return static_cast<StopReason>(pg_atomic_read_u32(&self->slot->stop));
}

bool worker_reload_settings() {
    if (!ConfigReloadPending)
        return false;
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    return true;
}

void worker_report(WorkerSelf *self, const char *state, int in_flight) {
    pg_atomic_write_u32(&self->slot->in_flight, static_cast<uint32>(in_flight));
    worker_report_state(self, state, in_flight > 0);
}

void worker_report_state(WorkerSelf *self, const char *state, bool busy) {
    WorkerSlot *slot = self->slot;
    slot->last_activity = GetCurrentTimestamp();
    bool changed = strncmp(slot->state, state, sizeof(slot->state) - 1) != 0;
    if (changed) {
        LWLockAcquire(roster->lock, LW_EXCLUSIVE);
        strlcpy(slot->state, state, sizeof(slot->state));
        LWLockRelease(roster->lock);
        pgstat_report_activity(busy ? STATE_RUNNING : STATE_IDLE, state);
    }
    if (!busy && (changed || counts_kept_back) && !IsTransactionOrTransactionBlock()) {
        (void)pgstat_report_stat(true); // nothing may follow for hours, and autovacuum goes by them
        counts_kept_back = false;
    }
}

void worker_directory_make() {
    if (MakePGDirectory(worker_directory) != 0 && errno != EEXIST)
        ereport(ERROR,
                (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", worker_directory),
                 errhint("The server's user must be able to write to the data directory.")));
}

} // namespace whisperer::pg
