#include "pg/prelude.hpp"

#include "pg/probe.hpp"

#include "pg/worker.hpp"

extern "C" {
#include "access/xact.h"
#include "commands/extension.h"
#include "storage/ipc.h"
}

void whisperer_probe_main(Datum main_arg) {
    using namespace whisperer::pg;

    WorkerSelf *self = worker_start(main_arg, WorkerKind::probe);
    StartTransactionCommand();
    Oid extension = get_extension_oid("whisperer", true);
    CommitTransactionCommand();

    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    self->slot->extension = extension;
    self->slot->answered = true;
    LWLockRelease(roster->lock);
    proc_exit(0);
}
