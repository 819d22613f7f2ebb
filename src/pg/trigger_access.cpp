#include "pg/prelude.hpp"

#include "pg/access.hpp"
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

// The first argument, null if there is none: the catalog keeps them one after another, each with a zero byte.
const char *first_argument(Relation catalog, HeapTuple tuple) {
    bool is_null;
    Datum arguments = heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(catalog), &is_null);
    bytea *bytes = is_null ? nullptr : DatumGetByteaPP(arguments);
    if (bytes == nullptr || VARSIZE_ANY_EXHDR(bytes) == 0)
        return nullptr;
    return text_to_cstring((text *)bytes); // with further ones, which no reader of a C string sees
}

} // namespace

void check_new_trigger(Oid trigger) {
    Relation catalog = table_open(TriggerRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
    // Written by this very command: only SnapshotSelf sees it.
    SysScanDesc scan = systable_beginscan(catalog, TriggerOidIndexId, true, SnapshotSelf, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    const char *event_type = nullptr;
    if (HeapTupleIsValid(tuple)) {
        Form_pg_trigger form = (Form_pg_trigger)GETSTRUCT(tuple);
        // Of a copy for a partition its original's maker was asked.
        if (!OidIsValid(form->tgparentid) && is_our_function(form->tgfoid))
            event_type = first_argument(catalog, tuple);
    }
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    if (event_type != nullptr)
        access_check(GetUserId(), Access::deliver, event_type);
}

} // namespace whisperer::pg
