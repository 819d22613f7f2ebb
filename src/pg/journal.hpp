// What was in flight when a worker crashed.
//
// Deliveries are not claimed in the table, so after a crash nobody would know what had been sent. Each
// delivery worker keeps a small file in the data directory, pg_whisperer/<database>.<shard>.journal: one
// entry per request in flight, and per suspect that waits to be sent again. What was written to it outlives
// the process, also one killed by a signal; it need not survive a power cut (nothing is lost then: the table
// has every delivery, and only the count of crashes starts anew).
//
// Written by its worker only, read by anybody (whisperer.in_flight_list()).
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

struct Journal;

// Deliveries that were in flight when the last worker of this database and shard ended without closing its
// journal, on this timeline. Their counts have grown by one, unless it was told to leave at once.
struct Suspect {
    core::Uuid uuid;
    core::CrashCount count;
    int64 subscription;
};

// Opens the worker's journal and hands out what an earlier process left in it (palloc'ed array). It stays
// there with its count until it is sent again or journal_acquitted(), or the next crash would forget those
// whose turn had not come. Suspects that were left by other shards (the number of workers may have changed)
// are taken over by shard 0. ERROR if the file cannot be made or written.
Journal *journal_open(Oid database, int shard, int shards, Suspect **suspects, int *count);

// After an orderly end nothing is a suspect.
void journal_close(Journal *journal);

// The process is ended by others (see ordered_end.hpp): it is not a crash of what it has in flight,
// which goes out again and is not counted. For a signal handler, too.
void journal_note_order();

// As core::FlightRecorder wants them; context is the Journal. They write an entry to the operating system's
// cache, a microsecond. One that cannot be written is a delivery that is sent and not remembered.
int journal_took_off(void *journal, const core::Uuid &uuid, int64_t subscription, bool alone,
                     const core::CrashCount &before);
void journal_landed(void *journal, int slot);
void journal_acquitted(void *journal, const core::Uuid &uuid);

// For the process's own thread, now and then: what could not be written is tried again, and said once in the
// log.
void journal_tend(Journal *journal);

// Does a living worker of this database have the delivery in flight now? Reads files.
bool journal_has(const core::Uuid &uuid);

// Removes the journals of a database, when it is known to be gone. Errors are ignored: a journal without a
// database harms nothing.
void journal_remove_all(Oid database);

} // namespace whisperer::pg
