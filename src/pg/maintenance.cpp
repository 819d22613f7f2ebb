#include "pg/prelude.hpp"

#include "pg/maintenance.hpp"

#include "pg/compat.hpp"
#include "pg/prune.hpp"
#include "pg/settings.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

constexpr int64 batch_rows = 5000;
// After a batch this many times as long is waited as it took: what is old can wait, what is to be sent
// cannot.
constexpr int64 rest = 3;

// One batch in a transaction of its own, so that no snapshot and no lock is held for longer than that takes.
// False: there is nothing left to do, or nothing may be done.
bool prune_once(WorkerSelf *self, int64 *removed) {
    int64 retention = setting_retention();
    if (retention <= 0 || !setting_enabled || !worker_begin(self))
        return false;
    int64 rows = prune_batch(GetCurrentTimestamp() - retention, batch_rows);
    worker_commit(self);
    *removed += rows;
    return rows >= batch_rows;
}

// False: there is nothing more to do.
bool prune_and_rest(WorkerSelf *self, int64 *removed) {
    static uint32 wait_event = 0;
    int64 before = monotonic_micros();
    if (!prune_once(self, removed))
        return false;
    int64 until = monotonic_micros() + rest * (monotonic_micros() - before);
    for (int64 now = monotonic_micros(); now < until && !worker_must_stop(self); now = monotonic_micros()) {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                        (long)((until - now + 999) / 1000),
                        compat_wait_event(&wait_event, "WhispererMaintenance"));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
    return true;
}

} // namespace

} // namespace whisperer::pg

void whisperer_maintenance_main(Datum main_arg) {
    using namespace whisperer::pg;

    WorkerSelf *self = worker_start(main_arg, WorkerKind::maintenance);
    worker_report(self, "removing old deliveries", 0);
    int64 removed = 0;
    while (!worker_must_stop(self) && prune_and_rest(self, &removed))
        worker_reload_settings();
    if (removed > 0)
        ereport(DEBUG1, (errmsg_internal("whisperer removed %lld settled deliveries from database \"%s\"",
                                         static_cast<long long>(removed), self->database_name)));
    proc_exit(0);
}
