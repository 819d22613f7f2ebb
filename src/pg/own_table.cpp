#include "pg/prelude.hpp"

#include "pg/own_table.hpp"
#include "pg/relation_name.hpp"

extern "C" {
#include "access/stratnum.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace whisperer::pg {

Oid own_relation(const char *name) {
    Oid relation = relation_of_name("whisperer", name);
    if (!OidIsValid(relation))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("whisperer.%s does not exist", name),
                errhint("The extension has been damaged: drop it and create it again."));
    return relation;
}

bool own_relation_exists(const char *name) {
    return OidIsValid(relation_of_name("whisperer", name));
}

void own_open(OwnTable *table, const char *name, const char *const *columns, int count) {
    Assert(count <= OwnTable::max_columns);
    Oid relation = own_relation(name);
    table->relation = table_open(relation, AccessShareLock);
    for (int i = 0; i < count; i++) {
        table->columns[i] = get_attnum(relation, columns[i]);
        if (table->columns[i] == InvalidAttrNumber)
            elog(ERROR, "whisperer.%s has no column \"%s\"", name, columns[i]);
    }
}

void own_close(OwnTable *table) {
    table_close(table->relation, AccessShareLock);
}

Datum own_value(const OwnTable &table, HeapTuple row, int column, bool *is_null) {
    return heap_getattr(row, table.columns[column], RelationGetDescr(table.relation), is_null);
}

char *own_text(const OwnTable &table, HeapTuple row, int column) {
    bool is_null;
    Datum value = own_value(table, row, column, &is_null);
    return is_null ? nullptr : TextDatumGetCString(value);
}

Snapshot own_snapshot() {
    return ActiveSnapshotSet() ? GetActiveSnapshot() : nullptr;
}

HeapTuple own_find(const OwnTable &table, const char *index, RegProcedure equals, Datum value) {
    ScanKeyData key;
    Oid index_oid = relation_of_name("whisperer", index);
    ScanKeyInit(&key, table.columns[0], BTEqualStrategyNumber, equals, value);
    SysScanDesc scan = systable_beginscan(table.relation, index_oid, true, own_snapshot(), 1, &key);
    HeapTuple row = systable_getnext(scan);
    if (HeapTupleIsValid(row))
        row = heap_copytuple(row);
    systable_endscan(scan);
    return HeapTupleIsValid(row) ? row : nullptr;
}

} // namespace whisperer::pg
