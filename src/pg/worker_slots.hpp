// The processes in shared memory: reserving and freeing their slots, asking them to leave, and keeping a
// database free of them while somebody drops, renames, moves or copies it.
#pragma once

#include "pg/prelude.hpp"
#include "pg/roster.hpp"

namespace whisperer::pg {

// What a slot is reserved for.
struct SlotRequest {
    WorkerKind kind;
    Oid database;
    Oid extension;
    int shard;
    int shards;
    uint32 generation;
};

// How a process ended, or a reservation came to nothing.
struct SlotEnd {
    WorkerKind kind;
    Oid database;
    int shard;
    int exit_code;
    bool overrun;  // it ended because a user's function did not
    bool started;  // it did run
    bool answered; // probe
    Oid extension; // probe's answer
    TimestampTz began;
};

// -1: none free, or the database is barred. Sets *ticket.
int slot_reserve(const SlotRequest &request, uint32 *ticket);

// For a process that was never started: gives the reservation back. False: it is running after all, or was.
bool slot_abandon(int index, uint32 ticket);

// In the new process. False: the reservation is no longer its own, or the database is barred.
bool slot_attach(int index, uint32 ticket, WorkerKind kind);

// At the process's end, after it has left its database.
void slot_detach(int index, int exit_code);

// Takes one finished process off the list.
bool slot_take_finished(SlotEnd *end);

// Reservations and processes of a kind (none: any) in a database (InvalidOid: any), those that ended not
// counted.
int slot_count(WorkerKind kind, Oid database);

// The shards of the present set that have a slot, as bits; ended ones as above.
uint32 slot_shards_present(Oid database);

// ---- Workers that do jobs: at most one at a time for each owner

// False: another process does that owner's jobs of this kind.
bool slot_serve(WorkerSlot *slot, Oid owner);
void slot_serve_end(WorkerSlot *slot);

// Wakes one that does nothing at the moment; false when there is none.
bool slot_wake_idle(WorkerKind kind, Oid database);

// Asks the database's processes to leave.
void slot_stop(Oid database, StopReason reason);

// ---- Bars

// No process of ours enters the database until this backend (or the launcher, once this backend is gone)
// clears it; those that are in it are asked to leave. False: too many databases are barred at once.
bool bar_set(Oid database);

// Waits until they have left. False after timeout_ms. Serves interrupts.
bool bar_wait(Oid database, long timeout_ms);

// Clears this backend's bars; the launcher looks at those databases again.
void bar_clear_mine();

// Clears the bars of backends that are gone.
void bar_clear_orphans();

bool bar_holds(Oid database);

} // namespace whisperer::pg
