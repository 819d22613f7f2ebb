// whisperer.deliver_event_trigger(): events raised by writes to a table, row by row or a statement at a time.
#include "pg/prelude.hpp"

#include "pg/enqueue.hpp"
#include "pg/errors.hpp"
#include "pg/relation_name.hpp"
#include "pg/settings.hpp"
#include "pg/subscription_fields.hpp"
#include "pg/trigger_access.hpp"
#include "pg/user_function.hpp"

extern "C" {
#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
}

namespace whisperer::pg {

namespace {

// Rows of a transition table serialized before they are written together.
constexpr int rows_at_once = 500;
constexpr size_t bytes_at_once = 4 * 1024 * 1024;

// A trigger on a partition is a copy of the one made on the partitioned table, whose row it stands for.
Oid table_of_trigger(const TriggerData *data) {
    Oid relation = RelationGetRelid(data->tg_relation);
    Oid trigger = data->tg_trigger->tgoid;
    if (!data->tg_trigger->tgisclone)
        return relation;
    ScanKeyData key;
    Relation catalog = table_open(TriggerRelationId, AccessShareLock);
    for (;;) {
        ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
        SysScanDesc scan = systable_beginscan(catalog, TriggerOidIndexId, true, nullptr, 1, &key);
        HeapTuple tuple = systable_getnext(scan);
        Oid parent = InvalidOid;
        if (HeapTupleIsValid(tuple)) {
            Form_pg_trigger form = (Form_pg_trigger)GETSTRUCT(tuple);
            relation = form->tgrelid;
            parent = form->tgparentid;
        }
        systable_endscan(scan);
        if (!OidIsValid(parent))
            break;
        trigger = parent;
    }
    table_close(catalog, AccessShareLock);
    return relation;
}

EventOrigin origin_of(const TriggerData *data, Oid table) {
    EventOrigin origin = {data->tg_trigger->tgargs[0], nullptr, nullptr};
    relation_name_of(table, &origin.relation_schema, &origin.relation_name);
    return origin;
}

Jsonb *config_filter_of(const TriggerData *data) {
    return data->tg_trigger->tgnargs < 2 ? nullptr : parse_trigger_filter(data->tg_trigger->tgargs[1]);
}

void check_call(FunctionCallInfo fcinfo) {
    if (!CALLED_AS_TRIGGER(fcinfo))
        raise_trigger_misuse("can only be called as a trigger",
                             "Use whisperer.attach(), or CREATE TRIGGER ... EXECUTE "
                             "FUNCTION whisperer.deliver_event_trigger('type').");
    const TriggerData *data = (const TriggerData *)fcinfo->context;
    const Trigger *trigger = data->tg_trigger;
    check_trigger(trigger->tgtype, trigger->tgnargs,
                  trigger->tgnewtable != nullptr || trigger->tgoldtable != nullptr);
}

// One call of the trigger.
struct Firing {
    const TriggerData *data;
    Oid table; // on which the trigger was made
    EventOrigin origin;
    Recipients recipients;
    bool record; // whisperer.trigger_errors = record
    int failed;  // events that were recorded as such
    ErrorData *first_error;
};

// The type as which rows of `type` are serialized: those of a partition, where the serializer takes rows, as
// rows of the partitioned table. (The default serialization makes the same of both.)
Oid serialized_type(const Firing *firing, Oid type) {
    if (firing->table == RelationGetRelid(firing->data->tg_relation))
        return type;
    Oid whole = get_rel_type_id(firing->table);
    return serializer_takes_rows(firing->recipients.functions, whole) ? whole : type;
}

// Serializes rows and writes their events. Memory is bounded by rows_at_once and bytes_at_once.
void write_rows(const Firing *firing, const Datum *rows, int count) {
    Oid type = RelationGetDescr(firing->data->tg_relation)->tdtypeid;
    Oid wanted_type = serialized_type(firing, type);
    MemoryContext memory =
        AllocSetContextCreate(CurrentMemoryContext, "whisperer payloads", ALLOCSET_DEFAULT_SIZES);
    PayloadText *texts = (PayloadText *)palloc(sizeof(PayloadText) * (size_t)count);
    MemoryContext old = MemoryContextSwitchTo(memory);
    int ready = 0;
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        Datum row = type == wanted_type ? rows[i] : convert_row(rows[i], type, wanted_type);
        texts[ready] = payload_of_instance(firing->recipients.functions, row, wanted_type);
        bytes += (size_t)texts[ready++].len;
        if (bytes >= bytes_at_once || i == count - 1) {
            enqueue_events(firing->origin, firing->recipients, texts, ready);
            MemoryContextReset(memory);
            ready = 0;
            bytes = 0;
            CHECK_FOR_INTERRUPTS();
        }
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(memory);
    pfree(texts);
}

// Cancelled, shut down, out of resources, or in conflict with another transaction: not the row's fault.
bool fault_of_row(const ErrorData *error) {
    int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
    return category != ERRCODE_OPERATOR_INTERVENTION && category != ERRCODE_INSUFFICIENT_RESOURCES &&
           category != ERRCODE_TRANSACTION_ROLLBACK;
}

// In a subtransaction. Null when all went well.
ErrorData *try_rows(const Firing *firing, const Datum *rows, int count) {
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    ErrorData *volatile error = nullptr;
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        write_rows(firing, rows, count);
        ReleaseCurrentSubTransaction();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        error = CopyErrorData();
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    if (error != nullptr && !fault_of_row(error))
        ReThrowError(error);
    return error;
}

// What is kept with the deliveries: in which function, if that is not in the message, and the message.
const char *reason_of(const ErrorData *error) {
    const char *function = user_function_of_error(error);
    return function == nullptr ? error->message : psprintf("%s: %s", function, error->message);
}

// All at once, as nearly always all are good; after an error one by one, so that only those fail that must.
void try_or_record(Firing *firing, const Datum *rows, int count) {
    ErrorData *error = try_rows(firing, rows, count);
    for (int i = 0; error != nullptr && i < count; i++) {
        ErrorData *own = count == 1 ? error : try_rows(firing, rows + i, 1);
        if (own == nullptr)
            continue;
        enqueue_failed(firing->origin, firing->recipients, reason_of(own));
        if (firing->failed++ == 0)
            firing->first_error = own;
        else
            FreeErrorData(own);
    }
}

void deliver(Firing *firing, const Datum *rows, int count) {
    if (firing->record)
        try_or_record(firing, rows, count);
    else
        write_rows(firing, rows, count);
}

void deliver_row(Firing *firing) {
    const TriggerData *data = firing->data;
    HeapTuple tuple = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple : data->tg_trigtuple;
    Datum row = heap_copy_tuple_as_datum(tuple, RelationGetDescr(data->tg_relation));
    deliver(firing, &row, 1);
}

// One pass over the transition table.
void deliver_transition_table(Firing *firing) {
    const TriggerData *data = firing->data;
    // An update may have both, and then it is the new rows; or the old ones alone, if those are wanted.
    Tuplestorestate *store = data->tg_newtable != nullptr ? data->tg_newtable : data->tg_oldtable;
    if (store == nullptr)
        elog(ERROR, "trigger \"%s\" got no transition table", data->tg_trigger->tgname);
    TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(data->tg_relation), &TTSOpsMinimalTuple);
    tuplestore_select_read_pointer(store, tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND));
    tuplestore_rescan(store);

    MemoryContext memory =
        AllocSetContextCreate(CurrentMemoryContext, "whisperer rows", ALLOCSET_DEFAULT_SIZES);
    Datum *rows = (Datum *)palloc(sizeof(Datum) * rows_at_once);
    int count = 0;
    size_t bytes = 0;
    for (bool more = true; more;) {
        // A store that has spilled to disk makes the row in the current context, and frees it with the next
        // one.
        more = tuplestore_gettupleslot(store, true, false, slot);
        if (more) {
            MemoryContext old = MemoryContextSwitchTo(memory);
            rows[count] = ExecFetchSlotHeapTupleDatum(slot);
            bytes += VARSIZE_ANY(DatumGetPointer(rows[count]));
            count++; // not within: the macro evaluates its argument more than once
            MemoryContextSwitchTo(old);
        }
        if (count == rows_at_once || bytes >= bytes_at_once || (!more && count > 0)) {
            deliver(firing, rows, count);
            MemoryContextReset(memory);
            count = 0;
            bytes = 0;
        }
    }
    MemoryContextDelete(memory);
    ExecDropSingleTupleTableSlot(slot);
}

// The user's statement goes on, with one warning, however many rows it had.
void warn_of_failed(const Firing &firing) {
    if (firing.failed == 0)
        return;
    ereport(WARNING, errcode(firing.first_error->sqlerrcode),
            firing.failed == 1
                ? errmsg("event \"%s\" was not delivered: %s", firing.origin.event_type,
                         reason_of(firing.first_error))
                : errmsg("%d events \"%s\" were not delivered, the first one: %s", firing.failed,
                         firing.origin.event_type, reason_of(firing.first_error)),
            errdetail("whisperer.trigger_errors is \"record\": the reason is in whisperer.failed."));
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

WHISPERER_SQL_FUNCTION(whisperer_deliver_event_trigger) {
    check_call(fcinfo);
    const TriggerData *data = (const TriggerData *)fcinfo->context;
    Firing firing = {};
    firing.data = data;
    firing.table = table_of_trigger(data);
    firing.origin = origin_of(data, firing.table);
    firing.recipients = find_recipients(firing.origin.event_type, config_filter_of(data));
    firing.record = setting_trigger_errors == TRIGGER_ERRORS_RECORD;
    if (firing.recipients.count > 0) {
        if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
            deliver_row(&firing);
        else
            deliver_transition_table(&firing);
        warn_of_failed(firing);
    }
    return PointerGetDatum(nullptr);
}
