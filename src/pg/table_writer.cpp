#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/own_table.hpp"
#include "pg/table_writer.hpp"

extern "C" {
#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "tcop/utility.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
}

namespace whisperer::pg {

namespace {

// Rows written at once: a page of the table gets one WAL record for all of them that fit.
constexpr int rows_at_once = 100;
constexpr size_t bytes_at_once = 256 * 1024;

} // namespace

// What is known of a table, kept for the session: reading it takes longer than writing a row.
struct WriterTable {
    MemoryContext memory; // of this and all that follows
    Oid oid;
    bool valid; // nothing has changed since it was read
    TupleDesc descriptor;
    AttrNumber columns[TableWriter::max_columns];
    EState *executor;
    ResultRelInfo *target; // the relations in it are open between begin and end only
    Oid *indexes;
    TupleTableSlot *slots[rows_at_once];
    int used;
    size_t bytes;
    // Who has it open. An ERROR leaves this behind, but these numbers never come again.
    LocalTransactionId transaction;
    SubTransactionId subtransaction;
};

namespace {

constexpr int max_tables = 8;
WriterTable *known_tables[max_tables];
int known_count = 0;
uint64 changes = 0; // of any relation

bool concerns(const WriterTable *table, Oid relation) {
    if (!OidIsValid(relation) || relation == table->oid)
        return true;
    for (int i = 0; i < table->target->ri_NumIndices; i++)
        if (table->indexes[i] == relation)
            return true;
    return false;
}

void on_change(Datum, Oid relation) {
    changes++;
    for (int i = 0; i < known_count; i++)
        if (known_tables[i]->valid && concerns(known_tables[i], relation))
            known_tables[i]->valid = false;
}

// ---- Reading

void read_columns(const TableWriter *writer, WriterTable *table, Relation relation) {
    Assert(writer->column_count <= TableWriter::max_columns);
    // A copy, since one of the relation's own would have to be let go at the end of each transaction.
    table->descriptor = CreateTupleDescCopyConstr(RelationGetDescr(relation));
    for (int i = 0; i < writer->column_count; i++) {
        table->columns[i] = get_attnum(table->oid, writer->columns[i]);
        if (table->columns[i] == InvalidAttrNumber)
            elog(ERROR, "whisperer.%s has no column \"%s\"", writer->name, writer->columns[i]);
    }
}

// An index whose description changes while it is used, or is made of more than columns, is read anew by the
// next writer_begin().
bool lasting(const IndexInfo *index) {
    return index->ii_Am == BTREE_AM_OID && index->ii_Expressions == NIL && index->ii_ExclusionOps == nullptr;
}

// The same as the executor would make of it for each statement.
IndexInfo *read_index(Oid oid) {
    Relation relation = index_open(oid, RowExclusiveLock);
    IndexInfo *index = BuildIndexInfo(relation);
    if (index->ii_Predicate != NIL)
        index->ii_PredicateState =
            ExecInitQual((List *)expression_planner((Expr *)index->ii_Predicate), nullptr);
    index_close(relation, RowExclusiveLock);
    return index;
}

bool read_indexes(WriterTable *table, Relation relation) {
    List *oids = RelationGetIndexList(relation);
    size_t room = sizeof(void *) * (size_t)Max(list_length(oids), 1);
    ResultRelInfo *target = makeNode(ResultRelInfo);
    target->ri_IndexRelationDescs = (RelationPtr)palloc0(room);
    target->ri_IndexRelationInfo = (IndexInfo **)palloc0(room);
    table->indexes = (Oid *)palloc0(room);
    bool all_last = true;
    for (int i = 0; i < list_length(oids); i++) {
        table->indexes[i] = list_nth_oid(oids, i);
        target->ri_IndexRelationInfo[i] = read_index(table->indexes[i]);
        all_last = all_last && lasting(target->ri_IndexRelationInfo[i]);
    }
    target->ri_NumIndices = list_length(oids);
    table->target = target;
    return all_last;
}

void forget(TableWriter *writer) {
    for (int i = 0; i < known_count; i++)
        if (known_tables[i] == writer->table)
            known_tables[i] = known_tables[--known_count];
    if (writer->table != nullptr)
        MemoryContextDelete(writer->table->memory);
    writer->table = nullptr;
}

void read_table(TableWriter *writer, Relation relation) {
    forget(writer);
    if (known_count == max_tables)
        elog(ERROR, "whisperer writes to more tables than are provided for");
    uint64 changes_before = changes;
    // In a context that goes with the transaction until all has been read.
    MemoryContext memory =
        AllocSetContextCreate(CurTransactionContext, "whisperer table", ALLOCSET_SMALL_SIZES);
    MemoryContext old = MemoryContextSwitchTo(memory);
    WriterTable *table = (WriterTable *)palloc0(sizeof(WriterTable));
    table->memory = memory;
    table->oid = RelationGetRelid(relation);
    read_columns(writer, table, relation);
    table->executor = CreateExecutorState();
    bool lasts = read_indexes(table, relation);
    MemoryContextSwitchTo(old);
    table->valid = lasts && changes == changes_before;
    MemoryContextSetParent(memory, CacheMemoryContext);
    writer->table = known_tables[known_count++] = table;
}

// ---- Writing

void open_indexes(WriterTable *table) {
    ResultRelInfo *target = table->target;
    for (int i = 0; i < target->ri_NumIndices; i++)
        target->ri_IndexRelationDescs[i] = index_open(table->indexes[i], RowExclusiveLock);
}

void close_indexes(WriterTable *table) {
    ResultRelInfo *target = table->target;
    for (int i = 0; i < target->ri_NumIndices; i++) {
        compat_index_insert_done(target->ri_IndexRelationDescs[i], target->ri_IndexRelationInfo[i]);
        index_close(target->ri_IndexRelationDescs[i], RowExclusiveLock);
    }
}

void clear(WriterTable *table) {
    for (int i = 0; i < table->used; i++)
        ExecClearTuple(table->slots[i]);
    table->used = 0;
    table->bytes = 0;
}

void write_rows(WriterTable *table) {
    if (table->used == 0)
        return;
    Relation relation = table->target->ri_RelationDesc;
    CommandId command = GetCurrentCommandId(true);
    MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(table->executor));
    if (table->used == 1)
        table_tuple_insert(relation, table->slots[0], command, 0, nullptr);
    else
        table_multi_insert(relation, table->slots, table->used, command, 0, nullptr);
    MemoryContextSwitchTo(old);
    for (int i = 0; i < table->used; i++) {
        compat_insert_index_entries(table->target, table->slots[i], table->executor);
        ResetPerTupleExprContext(table->executor);
    }
    clear(table);
}

TupleTableSlot *next_slot(WriterTable *table) {
    TupleTableSlot **slot = &table->slots[table->used];
    if (*slot == nullptr) {
        MemoryContext old = MemoryContextSwitchTo(table->memory);
        *slot =
            MakeSingleTupleTableSlot(table->descriptor, table_slot_callbacks(table->target->ri_RelationDesc));
        (*slot)->tts_tableOid = table->oid;
        MemoryContextSwitchTo(old);
    }
    return *slot;
}

void require_not_null(const TableWriter *writer, const TupleTableSlot *slot) {
    TupleDesc descriptor = writer->table->descriptor;
    for (int i = 0; i < descriptor->natts; i++) {
        const FormData_pg_attribute *column = TupleDescAttr(descriptor, i);
        if (slot->tts_isnull[i] && column->attnotnull && !column->attisdropped)
            elog(ERROR, "no value for column \"%s\" of whisperer.%s", NameStr(column->attname), writer->name);
    }
}

} // namespace

void writer_begin(TableWriter *writer) {
    PreventCommandIfReadOnly("INSERT");
    Relation relation = table_open(own_relation(writer->name), RowExclusiveLock);
    WriterTable *table = writer->table;
    if (table != nullptr && table->transaction == compat_local_transaction() &&
        table->subtransaction == GetCurrentSubTransactionId())
        elog(ERROR, "whisperer.%s is being written already", writer->name);
    if (table == nullptr || !table->valid || table->oid != RelationGetRelid(relation))
        read_table(writer, relation);
    table = writer->table;
    clear(table);
    table->transaction = compat_local_transaction();
    table->subtransaction = GetCurrentSubTransactionId();
    table->target->ri_RelationDesc = relation;
    open_indexes(table);
}

void writer_put(TableWriter *writer, const Datum *values, const bool *nulls) {
    WriterTable *table = writer->table;
    TupleTableSlot *slot = next_slot(table);
    memset(slot->tts_isnull, true, sizeof(bool) * (size_t)table->descriptor->natts);
    for (int i = 0; i < writer->column_count; i++) {
        int at = table->columns[i] - 1;
        slot->tts_values[at] = values[i];
        slot->tts_isnull[at] = nulls[i];
    }
    require_not_null(writer, slot);
    ExecStoreVirtualTuple(slot);
    ExecMaterializeSlot(slot); // its own copy
    table->used++;
    table->bytes += ExecFetchSlotHeapTuple(slot, false, nullptr)->t_len;
    if (table->used == rows_at_once || table->bytes >= bytes_at_once)
        write_rows(table);
}

void writer_end(TableWriter *writer) {
    WriterTable *table = writer->table;
    write_rows(table);
    close_indexes(table);
    table_close(table->target->ri_RelationDesc, NoLock);
    table->transaction = InvalidLocalTransactionId;
    CommandCounterIncrement();
}

void writer_init() {
    CacheRegisterRelcacheCallback(on_change, (Datum)0);
}

} // namespace whisperer::pg
