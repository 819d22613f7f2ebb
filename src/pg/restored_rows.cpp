// Rows that a restore loads into a database where the workers are at work already: the same one that was
// dumped, so that it is not held. They come table by table, each in a transaction of its own, with numbers of
// transactions past which the workers have read long ago.
#include "pg/prelude.hpp"

#include "pg/wake.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

AttrNumber column_of(Relation relation, const char *name) {
    int number = SPI_fnumber(RelationGetDescr(relation), name);
    if (number <= 0)
        elog(ERROR, "whisperer.%s has no column \"%s\"", RelationGetRelationName(relation), name);
    return (AttrNumber)number;
}

Datum value_of(Relation relation, HeapTuple row, const char *name, bool *is_null) {
    return heap_getattr(row, column_of(relation, name), RelationGetDescr(relation), is_null);
}

HeapTuple with_columns(Relation relation, HeapTuple row, int count, const char *const *names, Datum *values,
                       bool *nulls) {
    int columns[3];
    for (int i = 0; i < count; i++)
        columns[i] = column_of(relation, names[i]);
    return heap_modify_tuple_by_cols(row, RelationGetDescr(relation), count, columns, values, nulls);
}

Datum this_transaction() {
    return FullTransactionIdGetDatum(GetTopFullTransactionId());
}

// Who writes this transaction's own number into a row knows what it does.
bool is_of_now(Relation relation, HeapTuple row, const char *column) {
    bool is_null;
    Datum number = value_of(relation, row, column, &is_null);
    return !is_null && FullTransactionIdEquals(DatumGetFullTransactionId(number), GetTopFullTransactionId());
}

// As everybody but the worker asks for an attempt: see src/sql/10-tables.sql.
HeapTuple renumber_delivery(Relation relation, HeapTuple row) {
    bool is_null;
    Datum subscription = value_of(relation, row, "subscription_id", &is_null);
    if (!is_null)
        wake_due(DatumGetInt64(subscription), 0);
    if (is_of_now(relation, row, "xid"))
        return row;
    static const char *const names[] = {"xid", "due", "not_before"};
    bool no_due;
    Datum due = value_of(relation, row, "due", &no_due);
    Datum values[] = {this_transaction(), (Datum)0, due};
    bool nulls[] = {false, true, false};
    return with_columns(relation, row, no_due ? 1 : 3, names, values, nulls);
}

HeapTuple renumber_subscription(Relation relation, HeapTuple row) {
    wake_subscriptions();
    if (is_of_now(relation, row, "change_xid"))
        return row;
    static const char *const names[] = {"change_xid"};
    Datum values[] = {this_transaction()};
    bool nulls[] = {false};
    return with_columns(relation, row, 1, names, values, nulls);
}

const TriggerData *called_as(FunctionCallInfo fcinfo, const char *name, bool for_row) {
    auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
        bool(TRIGGER_FIRED_FOR_ROW(trigger->tg_event)) != for_row ||
        bool(TRIGGER_FIRED_BEFORE(trigger->tg_event)) != for_row)
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                errmsg("whisperer.%s() can only be called as whisperer's own trigger", name));
    return trigger;
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.renumber_row(): trigger on delivery and subscription.
WHISPERER_SQL_FUNCTION(whisperer_renumber_row) {
    const TriggerData *trigger = called_as(fcinfo, "renumber_row", true);
    Relation relation = trigger->tg_relation;
    bool is_delivery = strcmp(RelationGetRelationName(relation), "delivery") == 0;
    return PointerGetDatum(is_delivery ? renumber_delivery(relation, trigger->tg_trigtuple)
                                       : renumber_subscription(relation, trigger->tg_trigtuple));
}

// whisperer.secrets_loaded(): trigger on subscription_secret.
WHISPERER_SQL_FUNCTION(whisperer_secrets_loaded) {
    (void)called_as(fcinfo, "secrets_loaded", false);
    wake_subscriptions();
    return PointerGetDatum(nullptr);
}
