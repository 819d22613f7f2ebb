// SQL that whisperer runs on its own tables, whoever the caller is.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "executor/spi.h"
}

namespace whisperer::pg {

// Between internal_begin() and internal_end() SPI is connected, the current user is the bootstrap superuser
// in a security-restricted operation, and search_path is "pg_catalog, pg_temp". Nothing of the user's may run
// in between: no user function, no output function of a user's type. An ERROR in between needs no clean-up:
// the abort of the (sub)transaction restores user and settings and closes SPI.
struct InternalSql {
    Oid saved_user;
    int saved_context;
    int guc_level;
};

void internal_begin(InternalSql *state);
void internal_end(const InternalSql *state);

// From here to internal_end() no plan is logged by auto_explain, whose plans have the values of arguments.
// For what is to be in no log at all.
void internal_hide_values();

// From here to internal_end() what is read in an index's order is read by that index. A queue's statistics
// are never right: when they say that few rows are there, another index and a sort look cheaper, and walk
// over all the dead rows that an open transaction keeps from being removed.
void internal_read_in_order();

// One statement of ours, prepared once per process and kept. Declare it static at file or function scope:
//   static Statement find = {"SELECT …", 2, {TEXTOID, INT8OID}, nullptr};
struct Statement {
    static constexpr int max_arguments = 16;
    const char *sql;
    int argument_count;
    Oid argument_types[max_arguments];
    SPIPlanPtr plan;
};

// Executes inside internal_begin()/internal_end(); the result is in SPI_processed and SPI_tuptable, as SPI
// leaves it. `nulls` as SPI wants it, or null. Sees its own transaction's changes and takes a new snapshot
// where the isolation level has one per statement. Returns SPI_processed.
uint64 internal_execute(Statement *statement, Datum *arguments, const char *nulls = nullptr, long limit = 0);

// The same with SPI_OK_SELECT-only statements run under the given snapshot.
uint64 internal_execute_snapshot(Statement *statement, Datum *arguments, const char *nulls,
                                 struct SnapshotData *snapshot);

// Column `number` (from 1) of row `row` (from 0) of the last result.
Datum spi_value(uint64 row, int number, bool *is_null);
core::Uuid spi_uuid(uint64 row, int number);

// An array of one dimension, palloc'ed, for an argument. `nulls` may be null: none is.
Datum array_of(Datum *values, bool *nulls, size_t count, Oid type);

} // namespace whisperer::pg
