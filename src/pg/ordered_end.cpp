#include "pg/prelude.hpp"

#include "pg/ordered_end.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "libpq/pqsignal.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
}

namespace whisperer::pg {

namespace {

void (*call)() = nullptr;

// The postmaster says so, or one who plays its part. Not with SIGKILL: that is how the operating system ends
// a process whose memory it wants.
void told_to_quit(int signal_number) {
    call();
    SignalHandlerForCrashExit(signal_number);
}

void at_exit(int, Datum) {
    if (worker_was_hurried() || !PostmasterIsAlive())
        call();
}

} // namespace

void ordered_end_call(void (*note)()) {
    call = note;
    before_shmem_exit(at_exit, (Datum)0);
    pqsignal(SIGQUIT, told_to_quit);
}

} // namespace whisperer::pg
