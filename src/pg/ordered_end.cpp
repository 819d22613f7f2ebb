#include "pg/prelude.hpp"

#include "pg/ordered_end.hpp"

#include <unistd.h>

extern "C" {
#include "libpq/pqsignal.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
}

namespace whisperer::pg {

namespace {

WorkerSelf *process = nullptr;
void (*call)() = nullptr;

// The postmaster says so, or one who plays its part. Not with SIGKILL: that is how the operating system ends
// a process whose memory it wants. What a function has forked hears of it, too.
void told_to_quit(int signal_number) {
    if (MyProcPid == (int)getpid())
        call();
    SignalHandlerForCrashExit(signal_number);
}

void at_exit(int, Datum) {
    if (worker_must_stop(process) || !PostmasterIsAlive())
        call();
}

} // namespace

void ordered_end_call(WorkerSelf *self, void (*note)()) {
    process = self;
    call = note;
    before_shmem_exit(at_exit, (Datum)0);
    pqsignal(SIGQUIT, told_to_quit);
}

} // namespace whisperer::pg
