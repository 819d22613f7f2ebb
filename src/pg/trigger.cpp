// whisperer.deliver_event_trigger(): events raised by writes to a table, row by row or a statement at a time.
#include "pg/prelude.hpp"

#include "pg/enqueue.hpp"
#include "pg/errors.hpp"
#include "pg/relation_name.hpp"
#include "pg/settings.hpp"
#include "pg/subscription_fields.hpp"

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

[[noreturn]] void raise_misuse(const char *what, const char *hint) {
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("whisperer.deliver_event_trigger() %s", what), errhint("%s", hint));
}

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

EventOrigin origin_of(const TriggerData *data) {
    EventOrigin origin = {data->tg_trigger->tgargs[0], nullptr, nullptr};
    relation_name_of(table_of_trigger(data), &origin.relation_schema, &origin.relation_name);
    return origin;
}

Jsonb *config_filter_of(const TriggerData *data) {
    if (data->tg_trigger->tgnargs < 2)
        return nullptr;
    Jsonb *filter = parse_json_object(data->tg_trigger->tgargs[1], "config_filter");
    check_config_filter(filter);
    return filter;
}

void check_call(FunctionCallInfo fcinfo) {
    if (!CALLED_AS_TRIGGER(fcinfo))
        raise_misuse("can only be called as a trigger",
                     "Use whisperer.attach(), or CREATE TRIGGER … EXECUTE FUNCTION whisperer.deliver_event_trigger('type').");
    const TriggerData *data = (const TriggerData *)fcinfo->context;
    if (!TRIGGER_FIRED_AFTER(data->tg_event) || TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
        raise_misuse("must be an AFTER trigger for INSERT, UPDATE or DELETE",
                     "Make it AFTER INSERT OR UPDATE OR DELETE.");
    if (data->tg_trigger->tgnargs < 1 || data->tg_trigger->tgnargs > 2)
        raise_misuse("takes an event type and, if wanted, a config_filter",
                     "EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created', '{\"region\": \"eu\"}')");
}

void deliver_row(const TriggerData *data, const EventOrigin &origin, const Recipients &recipients) {
    HeapTuple tuple = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple : data->tg_trigtuple;
    TupleDesc description = RelationGetDescr(data->tg_relation);
    Datum row = heap_copy_tuple_as_datum(tuple, description);
    PayloadText text = payload_text(serialize_default(row, description->tdtypeid));
    enqueue_events(origin, recipients, &text, 1);
}

// One pass over the transition table; memory is bounded by rows_at_once and bytes_at_once, not by the statement.
void deliver_transition_table(const TriggerData *data, const EventOrigin &origin, const Recipients &recipients) {
    Tuplestorestate *rows = TRIGGER_FIRED_BY_DELETE(data->tg_event) ? data->tg_oldtable : data->tg_newtable;
    if (rows == nullptr)
        raise_misuse("for each statement needs a transition table",
                     "Add REFERENCING NEW TABLE AS rows (OLD TABLE for a delete), or make it FOR EACH ROW.");
    TupleDesc description = RelationGetDescr(data->tg_relation);
    TupleTableSlot *slot = MakeSingleTupleTableSlot(description, &TTSOpsMinimalTuple);
    int reader = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND);
    tuplestore_select_read_pointer(rows, reader);
    tuplestore_rescan(rows);

    MemoryContext batch_context = AllocSetContextCreate(CurrentMemoryContext, "whisperer rows", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(batch_context);
    PayloadText *texts = (PayloadText *)MemoryContextAlloc(old, sizeof(PayloadText) * rows_at_once);
    int count = 0;
    size_t bytes = 0;
    for (bool more = true; more;) {
        // A store that has spilled to disk makes the row in the current context, and frees it with the next one.
        MemoryContextSwitchTo(old);
        more = tuplestore_gettupleslot(rows, true, false, slot);
        MemoryContextSwitchTo(batch_context);
        if (more) {
            Datum row = ExecFetchSlotHeapTupleDatum(slot);
            texts[count] = payload_text(serialize_default(row, description->tdtypeid));
            bytes += (size_t)texts[count++].len;
        }
        if (count == rows_at_once || bytes >= bytes_at_once || !more) {
            enqueue_events(origin, recipients, texts, count);
            MemoryContextReset(batch_context);
            count = 0;
            bytes = 0;
            CHECK_FOR_INTERRUPTS();
        }
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(batch_context);
    ExecDropSingleTupleTableSlot(slot);
}

void deliver(const TriggerData *data, const EventOrigin &origin, const Recipients &recipients) {
    if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
        deliver_row(data, origin, recipients);
    else
        deliver_transition_table(data, origin, recipients);
}

// whisperer.trigger_errors = record: the user's statement goes on, and each subscription gets a failed delivery.
void deliver_or_record(const TriggerData *data, const EventOrigin &origin, const Recipients &recipients) {
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        deliver(data, origin, recipients);
        ReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData *error = CopyErrorData();
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
        int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
        // Cancelled, shut down, or out of resources: not the row's fault.
        if (category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES)
            ReThrowError(error);
        ereport(WARNING, errcode(error->sqlerrcode),
                errmsg("event \"%s\" was not delivered: %s", origin.event_type, error->message),
                errdetail("whisperer.trigger_errors is \"record\": the reason is in whisperer.failed."));
        enqueue_failed(origin, recipients, error->message);
        FreeErrorData(error);
    }
    PG_END_TRY();
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

WHISPERER_SQL_FUNCTION(whisperer_deliver_event_trigger) {
    check_call(fcinfo);
    const TriggerData *data = (const TriggerData *)fcinfo->context;
    EventOrigin origin = origin_of(data);
    Recipients recipients = find_recipients(origin.event_type, config_filter_of(data));
    if (recipients.count > 0) {
        if (setting_trigger_errors == TRIGGER_ERRORS_RECORD)
            deliver_or_record(data, origin, recipients);
        else
            deliver(data, origin, recipients);
    }
    return PointerGetDatum(nullptr);
}
