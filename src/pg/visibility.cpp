#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/own_table.hpp"
#include "pg/visibility.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *owner_columns[] = {"id", "owner_oid", "owner_name", "owner_system", "owner_dropped"};

Oid owner_of(const OwnTable &table, HeapTuple row) {
    bool is_null;
    if (DatumGetBool(own_value(table, row, 4, &is_null)))
        return InvalidOid;
    return owner_role(DatumGetObjectId(own_value(table, row, 1, &is_null)), own_text(table, row, 2),
                      DatumGetInt64(own_value(table, row, 3, &is_null)));
}

Sight look_up(const Viewer &viewer, int64 subscription_id) {
    if (viewer.others == Sight::full)
        return Sight::full;
    OwnTable table;
    own_open(&table, "subscription", owner_columns, lengthof(owner_columns));
    HeapTuple row = own_find(table, "subscription_pkey", F_INT8EQ, Int64GetDatum(subscription_id));
    Sight sight = row == nullptr ? viewer.others : sight_of(viewer, owner_of(table, row));
    if (row != nullptr)
        heap_freetuple(row);
    own_close(&table);
    return sight;
}

struct Remembered {
    int64 subscription_id; // the key
    Sight sight;
};

// What one call site in one query has learnt. A function may be called as another role later on: then it
// starts anew.
struct Memory {
    Viewer viewer;
    HTAB *subscriptions;
};

Memory *memory_of(FunctionCallInfo fcinfo) {
    Memory *memory = (Memory *)fcinfo->flinfo->fn_extra;
    if (memory != nullptr && memory->viewer.role == GetUserId())
        return memory;
    Viewer viewer = viewer_of(GetUserId());
    if (memory == nullptr) {
        memory = (Memory *)MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Memory));
        fcinfo->flinfo->fn_extra = memory;
    } else {
        hash_destroy(memory->subscriptions);
    }
    HASHCTL control = {};
    control.keysize = sizeof(int64);
    control.entrysize = sizeof(Remembered);
    control.hcxt = fcinfo->flinfo->fn_mcxt;
    memory->subscriptions =
        hash_create("whisperer visible subscriptions", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    memory->viewer = viewer;
    return memory;
}

} // namespace

Viewer viewer_of(Oid role) {
    if (access_has(role, Access::admin, nullptr))
        return {role, Sight::full};
    return {role, access_has(role, Access::monitor, nullptr) ? Sight::masked : Sight::none};
}

Sight sight_of(const Viewer &viewer, Oid owner) {
    if (viewer.others == Sight::full || access_owns(viewer.role, owner))
        return Sight::full;
    return viewer.others;
}

Sight sight_of_subscription(FunctionCallInfo fcinfo, int64 subscription_id) {
    Memory *memory = memory_of(fcinfo);
    if (memory->viewer.others == Sight::full)
        return Sight::full;
    bool known;
    Remembered *entry =
        (Remembered *)hash_search(memory->subscriptions, &subscription_id, HASH_ENTER, &known);
    if (!known) {
        entry->sight = Sight::none; // in case of an ERROR
        entry->sight = look_up(memory->viewer, subscription_id);
    }
    return entry->sight;
}

ArrayType *visible_subscriptions(const Viewer &viewer) {
    OwnTable table;
    own_open(&table, "subscription", owner_columns, lengthof(owner_columns));
    SysScanDesc scan = systable_beginscan(table.relation, InvalidOid, false, own_snapshot(), 0, nullptr);
    int room = 64, count = 0;
    Datum *ids = (Datum *)palloc(sizeof(Datum) * (size_t)room);
    for (HeapTuple row; HeapTupleIsValid(row = systable_getnext(scan));) {
        if (viewer.others == Sight::none && sight_of(viewer, owner_of(table, row)) == Sight::none)
            continue;
        if (count == room) {
            room *= 2;
            ids = (Datum *)repalloc(ids, sizeof(Datum) * (size_t)room);
        }
        bool is_null;
        ids[count++] = own_value(table, row, 0, &is_null);
    }
    systable_endscan(scan);
    own_close(&table);
    if (count == 0)
        return construct_empty_array(INT8OID);
    return construct_array(ids, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.may_see(subscription_id): the policy of the tables whose rows belong to a subscription.
WHISPERER_SQL_FUNCTION(whisperer_may_see) {
    if (PG_ARGISNULL(0))
        PG_RETURN_BOOL(false);
    PG_RETURN_BOOL(sight_of_subscription(fcinfo, PG_GETARG_INT64(0)) != Sight::none);
}

// whisperer.may_see_event_type(event_type, owner_oid, owner_name, owner_system): its owner, and whoever has a
// grant for it (monitors and admins for all).
WHISPERER_SQL_FUNCTION(whisperer_may_see_event_type) {
    for (int i = 0; i < 4; i++)
        if (PG_ARGISNULL(i))
            PG_RETURN_BOOL(false);
    Oid role = GetUserId();
    const char *event_type = text_to_cstring(PG_GETARG_TEXT_PP(0));
    Oid owner = owner_role(PG_GETARG_OID(1), text_to_cstring(PG_GETARG_TEXT_PP(2)), PG_GETARG_INT64(3));
    PG_RETURN_BOOL(access_owns(role, owner) || access_has(role, Access::deliver, event_type) ||
                   access_has(role, Access::monitor, event_type));
}

// whisperer.visible_subscriptions(): what visibility_plan.cpp looks for in an index, instead of asking
// may_see() row by row.
WHISPERER_SQL_FUNCTION(whisperer_visible_subscriptions) {
    (void)fcinfo;
    PG_RETURN_ARRAYTYPE_P(visible_subscriptions(viewer_of(GetUserId())));
}
