#include "pg/prelude.hpp"

#include "pg/maintenance.hpp"

#include "pg/prune.hpp"
#include "pg/settings.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "storage/ipc.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

constexpr int64 batch_rows = 10000;

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

} // namespace

} // namespace whisperer::pg

void whisperer_maintenance_main(Datum main_arg) {
    using namespace whisperer::pg;

    WorkerSelf *self = worker_start(main_arg, WorkerKind::maintenance);
    worker_report(self, "removing old deliveries", 0);
    int64 removed = 0;
    while (!worker_must_stop(self) && prune_once(self, &removed)) {
        CHECK_FOR_INTERRUPTS();
        worker_reload_settings();
    }
    if (removed > 0)
        ereport(DEBUG1, (errmsg_internal("whisperer removed %lld settled deliveries from database \"%s\"",
                                         static_cast<long long>(removed), self->database_name)));
    proc_exit(0);
}
