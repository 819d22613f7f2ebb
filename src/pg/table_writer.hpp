// Inserting rows into whisperer's own tables without SQL: for what every event writes, and every result.
//
// What SQL would do besides is left out, so: no default of a column is filled in, no CHECK and no trigger of
// the table is looked at. NOT NULL and unique indexes hold. The rows are written as whoever the current user
// is, whose privileges are not asked for.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Rows to be written to one table. What is known of the table is kept for the session, so declare it static,
// at file scope:
//   static TableWriter deliveries = {"delivery", 3, {"uuid", "subscription_id", "xid"}, nullptr};
//
//   writer_begin(&deliveries);
//   for (…) writer_put(&deliveries, values, nulls);
//   writer_end(&deliveries);
//
// No code of users may run between begin and end. After an ERROR nothing needs to be done.
struct TableWriter {
    static constexpr int max_columns = 20;
    const char *name; // in the schema whisperer
    int column_count;
    const char *columns[max_columns]; // by name, so that their order in the table does not matter
    struct WriterTable *table;        // starts as null
};

// Opens and locks the table as INSERT does, until the transaction ends.
void writer_begin(TableWriter *writer);

// One row: values of `columns`, NULL in all others. Copied; written with the next ones, or by the end.
void writer_put(TableWriter *writer, const Datum *values, const bool *nulls);

// Writes what has been put. The transaction's next commands see it.
void writer_end(TableWriter *writer);

// Registers the callback by which changes of the tables are noticed. From _PG_init.
void writer_init();

} // namespace whisperer::pg
