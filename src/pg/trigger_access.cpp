#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/serialize.hpp"
#include "pg/subscription_fields.hpp"
#include "pg/trigger_access.hpp"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
}

namespace whisperer::pg {

namespace {

bool is_our_function(Oid function) {
    const char *name = get_func_name(function);
    return name != nullptr && strcmp(name, "deliver_event_trigger") == 0 &&
           get_func_namespace(function) == get_namespace_oid("whisperer", true);
}

struct NewTrigger {
    bool ours;
    int16 type;
    int argument_count;
    bool has_transition_table;
    const char *event_type; // both null if there are not so many arguments
    const char *config_filter;
};

bool has_value(Relation catalog, HeapTuple tuple, AttrNumber column) {
    return !heap_attisnull(tuple, column, RelationGetDescr(catalog));
}

NewTrigger read_trigger(Relation catalog, HeapTuple tuple) {
    Form_pg_trigger form = (Form_pg_trigger)GETSTRUCT(tuple);
    NewTrigger trigger = {};
    // Of a copy for a partition its original's maker was asked.
    trigger.ours = !OidIsValid(form->tgparentid) && is_our_function(form->tgfoid);
    if (!trigger.ours)
        return trigger;
    trigger.type = form->tgtype;
    trigger.argument_count = form->tgnargs;
    trigger.has_transition_table = has_value(catalog, tuple, Anum_pg_trigger_tgnewtable) ||
                                   has_value(catalog, tuple, Anum_pg_trigger_tgoldtable);
    // The catalog keeps them one after another, each with a zero byte.
    bool is_null;
    Datum arguments = heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(catalog), &is_null);
    if (!is_null && form->tgnargs > 0) {
        trigger.event_type = text_to_cstring((text *)DatumGetByteaPP(arguments));
        if (form->tgnargs > 1)
            trigger.config_filter = trigger.event_type + strlen(trigger.event_type) + 1;
    }
    return trigger;
}

} // namespace

void raise_trigger_misuse(const char *what, const char *hint) {
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("whisperer.deliver_event_trigger() %s", what), errhint("%s", hint));
}

void check_trigger(int16 type, int argument_count, bool has_transition_table) {
    if (!TRIGGER_FOR_AFTER(type) || TRIGGER_FOR_TRUNCATE(type))
        raise_trigger_misuse("must be an AFTER trigger for INSERT, UPDATE or DELETE",
                             "Make it AFTER INSERT OR UPDATE OR DELETE.");
    if (argument_count < 1 || argument_count > 2)
        raise_trigger_misuse(
            "takes an event type and, if wanted, a config_filter",
            "EXECUTE FUNCTION whisperer.deliver_event_trigger('package-created', '{\"region\": \"eu\"}')");
    if (!TRIGGER_FOR_ROW(type) && !has_transition_table)
        raise_trigger_misuse(
            "for each statement needs a transition table",
            "Add REFERENCING NEW TABLE AS rows (OLD TABLE for a delete), or make it FOR EACH ROW.");
}

Jsonb *parse_trigger_filter(const char *argument) {
    Jsonb *filter = parse_json_object(argument, "config_filter");
    check_config_filter(filter);
    return filter;
}

void check_new_trigger(Oid trigger) {
    Relation catalog = table_open(TriggerRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
    // Written by this very command: only SnapshotSelf sees it.
    SysScanDesc scan = systable_beginscan(catalog, TriggerOidIndexId, true, SnapshotSelf, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    NewTrigger made = {};
    if (HeapTupleIsValid(tuple))
        made = read_trigger(catalog, tuple);
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    if (!made.ours)
        return;
    if (made.event_type != nullptr)
        access_check(GetUserId(), Access::deliver, made.event_type);
    check_trigger(made.type, made.argument_count, made.has_transition_table);
    if (made.config_filter != nullptr)
        (void)parse_trigger_filter(made.config_filter);
}

} // namespace whisperer::pg
