// Reading rows of whisperer's own tables without SQL: for what is asked for every row of a query, or before
// every call. No privileges are looked at; the caller decides what comes of it.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
}

namespace whisperer::pg {

// A table opened for reading, with the columns asked for by name, so that the order of the table's columns
// does not matter.
struct OwnTable {
    static constexpr int max_columns = 12;
    Relation relation;
    AttrNumber columns[max_columns];
};

// The table or index whisperer.<name>; an ERROR when there is none.
Oid own_relation(const char *name);
bool own_relation_exists(const char *name);

// Opens whisperer.<name>; an ERROR when there is none, or a column is missing. Released by own_close(), or by
// an ERROR.
void own_open(OwnTable *table, const char *name, const char *const *columns, int count);
void own_close(OwnTable *table);

// The column of that number among those asked for. A text is palloc'ed, null for NULL.
Datum own_value(const OwnTable &table, HeapTuple row, int column, bool *is_null);
char *own_text(const OwnTable &table, HeapTuple row, int column);

// The row whose first column among those asked for has the value, by the index of that name; copied, null if
// there is none. Under the snapshot of the running query, or the newest where none runs.
HeapTuple own_find(const OwnTable &table, const char *index, RegProcedure equals, Datum value);

// The snapshot that own_find() uses; null, for systable_beginscan(), is the newest.
Snapshot own_snapshot();

} // namespace whisperer::pg
