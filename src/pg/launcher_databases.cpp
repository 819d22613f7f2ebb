#include "pg/prelude.hpp"

#include "pg/launcher_parts.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

// -2 marks a database whose DROP was interrupted (minor releases of 2023 and later): nobody can connect to
// it.
constexpr int invalid_connection_limit = -2;

void read_row(Entry *entry, Form_pg_database row) {
    entry->connectable = row->datallowconn && row->datconnlimit != invalid_connection_limit;
    strlcpy(entry->name, NameStr(row->datname), sizeof(entry->name));
}

} // namespace

Entry *entry_find(Entries *entries, Oid database) {
    for (int i = 0; i < entries->count; i++)
        if (entries->list[i].database == database)
            return &entries->list[i];
    return nullptr;
}

Entry *entry_make(Entries *entries, Oid database) {
    Entry *entry = entry_find(entries, database);
    if (entry != nullptr)
        return entry;
    entry = entry_find(entries, InvalidOid);
    if (entry == nullptr) {
        if (entries->count == entries->capacity) {
            int capacity = entries->capacity == 0 ? 64 : 2 * entries->capacity;
            size_t size = static_cast<size_t>(capacity) * sizeof(Entry);
            entries->list =
                static_cast<Entry *>(entries->list == nullptr ? MemoryContextAlloc(TopMemoryContext, size)
                                                              : repalloc(entries->list, size));
            entries->capacity = capacity;
        }
        entry = &entries->list[entries->count++];
    }
    *entry = {};
    entry->database = database;
    entry->state = DatabaseState::unknown;
    return entry;
}

void databases_scan(Entries *entries) {
    for (int i = 0; i < entries->count; i++)
        entries->list[i].seen = false;

    StartTransactionCommand();
    (void)GetTransactionSnapshot();
    Relation relation = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
    HeapTuple tuple;
    while ((tuple = heap_getnext(scan, ForwardScanDirection)) != nullptr) {
        auto *row = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
        Entry *entry = entry_make(entries, row->oid);
        entry->seen = true;
        read_row(entry, row);
    }
    table_endscan(scan);
    table_close(relation, AccessShareLock);
    CommitTransactionCommand();
}

bool database_refresh(Entry *entry) {
    StartTransactionCommand();
    HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(entry->database));
    bool exists = HeapTupleIsValid(tuple);
    if (exists) {
        read_row(entry, reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple)));
        ReleaseSysCache(tuple);
    }
    CommitTransactionCommand();
    return exists;
}

} // namespace whisperer::pg
