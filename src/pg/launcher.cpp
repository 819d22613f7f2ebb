// The launcher's process: what sessions announce, what pg_database has, and who has ended; each goes to the
// machine of its database (launcher_machine.cpp).

#include "pg/prelude.hpp"

#include "pg/launcher.hpp"

#include "pg/compat.hpp"
#include "pg/launcher_parts.hpp"
#include "pg/settings.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
}

namespace whisperer::pg {

namespace {

Entries entries = {};
bool full_said = false;

// Databases announced by sessions. A database that is not known yet is found by a scan.
bool take_announcements() {
    Oid announced[max_look_at];
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    int count = roster->look_at_count;
    memcpy(announced, roster->look_at, sizeof(announced));
    roster->look_at_count = 0;
    LWLockRelease(roster->lock);

    bool scan = count > max_look_at;
    if (scan)
        for (int i = 0; i < entries.count; i++)
            entries.list[i].look = true;
    for (int i = 0; i < Min(count, max_look_at); i++) {
        Entry *entry = entry_find(&entries, announced[i]);
        if (entry != nullptr)
            entry->look = true;
        scan = true; // new, or renamed, or open to connections now, or gone
    }
    return scan;
}

void scan_databases() {
    databases_scan(&entries);
    for (int i = 0; i < entries.count; i++) {
        Entry *entry = &entries.list[i];
        if (OidIsValid(entry->database) && !entry->seen && slot_count(WorkerKind::none, entry->database) == 0)
            database_forget(entry);
    }
    bar_clear_orphans();
}

void report_full() {
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    bool full = roster->full;
    roster->full = false;
    LWLockRelease(roster->lock);
    if (!full || full_said)
        return;
    full_said = true;
    ereport(WARNING,
            (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
             errmsg("more databases have whisperer than it has room for"),
             errdetail("There is room for %d; the others' deliveries wait.", roster->database_capacity),
             errhint("Increase whisperer.max_databases and restart the server.")));
}

void reload(int64 now) {
    int64 retention = setting_retention();
    if (!worker_reload_settings() || retention == setting_retention())
        return;
    for (int i = 0; i < entries.count; i++)
        entries.list[i].next_maintenance = now;
}

void not_started(WorkerKind kind, Oid database) {
    if (Entry *entry = entry_find(&entries, database))
        process_not_started(entry, kind, monotonic_micros());
}

void ended(const SlotEnd &end, int64 now) {
    Entry *entry = OidIsValid(end.database) ? entry_find(&entries, end.database) : nullptr;
    if (entry != nullptr)
        process_ended(entry, end, now);
}

// All that there is to do now; returns when there is more.
int64 turn(int64 now, int64 *next_scan) {
    process_check_pending(not_started);
    SlotEnd end;
    while (slot_take_finished(&end))
        ended(end, now);
    if (take_announcements() || now >= *next_scan) {
        scan_databases();
        *next_scan = now + setting_safety_scan_interval * second;
    }
    int64 next = *next_scan;
    for (int i = 0; i < entries.count; i++)
        if (OidIsValid(entries.list[i].database))
            next = Min(next, database_step(&entries.list[i], now));
    report_full();
    if (memory_take_changed())
        (void)memory_write(&entries, false);
    return next;
}

void describe(WorkerSelf *self) {
    int running = 0;
    int known = 0;
    for (int i = 0; i < entries.count; i++) {
        known += OidIsValid(entries.list[i].database) ? 1 : 0;
        running += entries.list[i].state == DatabaseState::running ? 1 : 0;
    }
    char text[128];
    snprintf(text, sizeof(text), "serving %d of %d databases", running, known);
    worker_report(self, text, 0);
}

WorkerSelf *launcher_start() {
    SlotRequest request = {WorkerKind::launcher, InvalidOid, InvalidOid, 0, 1, 0};
    uint32 ticket = 0;
    int index = slot_reserve(request, &ticket);
    if (index < 0)
        elog(ERROR, "whisperer has no slot for its launcher");
    WorkerSelf *self = worker_enter(index, ticket, WorkerKind::launcher);
    worker_directory_make();

    // After an earlier launcher that failed alone: its workers leave, and everything begins anew.
    process_abandon_all();
    memory_read(&entries);
    databases_scan(&entries);
    memory_check(&entries);
    for (int i = 0; i < entries.count; i++)
        if (OidIsValid(entries.list[i].database) &&
            slot_count(WorkerKind::none, entries.list[i].database) > 0)
            set_stop(&entries.list[i], monotonic_micros());
    return self;
}

void launcher_run() {
    uint32 wait_event = 0;
    WorkerSelf *self = launcher_start();
    int64 next_scan = 0;
    while (!ShutdownRequestPending) {
        int64 next = turn(monotonic_micros(), &next_scan);
        describe(self);
        int64 wait = Max(next - monotonic_micros(), INT64CONST(0));
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                        static_cast<long>(Min(wait / 1000 + 1, INT64CONST(3600000))),
                        compat_wait_event(&wait_event, "WhispererLauncher"));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
        reload(monotonic_micros());
    }
    (void)memory_write(&entries, true);
    // Not 0: after a plain pg_terminate_backend() the postmaster shall start it again.
    proc_exit(1);
}

} // namespace

void launcher_init() {
    BackgroundWorker worker = {};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished; // nothing on a standby until it is promoted
    worker.bgw_restart_time = 5;
    strlcpy(worker.bgw_name, "whisperer launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "whisperer launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "whisperer", BGW_MAXLEN);
    strlcpy(worker.bgw_function_name, "whisperer_launcher_main", BGW_MAXLEN);
    RegisterBackgroundWorker(&worker);
}

} // namespace whisperer::pg

void whisperer_launcher_main(Datum) {
    whisperer::pg::launcher_run();
}
