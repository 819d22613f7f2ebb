#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/find_delivery.hpp"
#include "pg/internal_sql.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
}

namespace whisperer::pg {

namespace {

// How often a delivery may be moved away between finding and locking it. Each time it was another
// transaction's commit that did so.
constexpr int find_tries = 20;
// Skipped so often, it was not moved but is locked.
constexpr int skip_tries = 3;

// One statement, so one snapshot, for both tables: what it does not find is not there, whoever is moving it.
Statement look_up = {
    "SELECT d.pending, d.subscription_id, s.owner_oid, s.owner_name, s.owner_system, s.owner_dropped"
    " FROM (SELECT true AS pending, subscription_id FROM whisperer.delivery WHERE uuid = $1"
    " UNION ALL SELECT false, subscription_id FROM whisperer.history WHERE uuid = $1) d"
    " JOIN whisperer.subscription s ON s.id = d.subscription_id",
    1,
    {UUIDOID},
    nullptr};

Statement lock_pending = {
    "SELECT 1 FROM whisperer.delivery WHERE uuid = $1 FOR UPDATE", 1, {UUIDOID}, nullptr};

Statement lock_pending_or_skip = {
    "SELECT 1 FROM whisperer.delivery WHERE uuid = $1 FOR UPDATE SKIP LOCKED", 1, {UUIDOID}, nullptr};

#define LOCK_SETTLED                                                                                         \
    "SELECT state, body IS NOT NULL OR payload IS NOT NULL OR event_uuid IS NOT NULL, xmin"                  \
    " FROM whisperer.history WHERE uuid = $1 FOR UPDATE"
Statement lock_settled = {LOCK_SETTLED, 1, {UUIDOID}, nullptr};
Statement lock_settled_or_skip = {LOCK_SETTLED " SKIP LOCKED", 1, {UUIDOID}, nullptr};

Statement all_owners = {
    "SELECT id, owner_oid, owner_name, owner_system, owner_dropped FROM whisperer.subscription",
    0,
    {},
    nullptr};

Statement one_owner = {
    "SELECT id, owner_oid, owner_name, owner_system, owner_dropped FROM whisperer.subscription"
    " WHERE id = $1",
    1,
    {INT8OID},
    nullptr};

// The owner in columns `first` and following of a row of the last result; InvalidOid when gone.
Oid owner_of_row(uint64 row, int first) {
    bool is_null;
    if (DatumGetBool(spi_value(row, first + 3, &is_null)))
        return InvalidOid;
    Oid number = DatumGetObjectId(spi_value(row, first, &is_null));
    const char *name = TextDatumGetCString(spi_value(row, first + 1, &is_null));
    return owner_role(number, name, DatumGetInt64(spi_value(row, first + 2, &is_null)));
}

[[noreturn]] void raise_unknown(const pg_uuid_t *uuid) {
    ereport(ERROR, errcode(ERRCODE_WH_NO_DELIVERY), errmsg("delivery %s does not exist", uuid_text(uuid)),
            errhint("whisperer.webhook_events lists the deliveries that there are."));
    pg_unreachable();
}

DeliveryState settled_state(const char *name) {
    if (strcmp(name, "delivered") == 0)
        return DeliveryState::delivered;
    return strcmp(name, "failed") == 0 ? DeliveryState::failed : DeliveryState::cancelled;
}

} // namespace

const char *uuid_text(const pg_uuid_t *uuid) {
    return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

void raise_being_sent(const pg_uuid_t *uuid) {
    ereport(ERROR, errcode(ERRCODE_WH_BEING_SENT), errmsg("delivery %s is being sent", uuid_text(uuid)),
            errdetail("Its request is under way, or another transaction has it in hand."),
            errhint("See in whisperer.webhook_events what becomes of it, and try again if need be."));
    pg_unreachable();
}

FoundDelivery find_delivery(Oid caller, const pg_uuid_t *uuid, IfLocked if_locked) {
    bool skip = if_locked == IfLocked::raise;
    Datum arguments[1] = {UUIDPGetDatum(uuid)};
    for (int i = 0; i < find_tries; i++) {
        CHECK_FOR_INTERRUPTS();
        if (internal_execute(&look_up, arguments) == 0)
            raise_unknown(uuid);
        bool is_null;
        bool pending = DatumGetBool(spi_value(0, 1, &is_null));
        int64 subscription_id = DatumGetInt64(spi_value(0, 2, &is_null));
        // Before the lock: nobody shall hold, or wait for, a row of somebody else's.
        if (!access_manages(caller, owner_of_row(0, 3)))
            raise_unknown(uuid);
        if (pending) {
            if (internal_execute(skip ? &lock_pending_or_skip : &lock_pending, arguments) == 1)
                return {DeliveryState::pending, subscription_id, true, false};
        } else if (internal_execute(skip ? &lock_settled_or_skip : &lock_settled, arguments) == 1) {
            DeliveryState state = settled_state(TextDatumGetCString(spi_value(0, 1, &is_null)));
            TransactionId writer = DatumGetTransactionId(spi_value(0, 3, &is_null));
            return {state, subscription_id, DatumGetBool(spi_value(0, 2, &is_null)),
                    state == DeliveryState::cancelled && TransactionIdIsCurrentTransactionId(writer)};
        }
        if (skip && i + 1 == skip_tries)
            raise_being_sent(uuid);
        // Settled, revived or pruned in between: look again, with a new snapshot.
    }
    ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
            errmsg("delivery %s is being changed by other sessions all the time", uuid_text(uuid)),
            errhint("Try again."));
    pg_unreachable();
}

ArrayType *managed_subscriptions(Oid caller) {
    if (access_has(caller, Access::admin, nullptr))
        return nullptr;
    uint64 rows = internal_execute(&all_owners, nullptr);
    Datum *ids = (Datum *)palloc(sizeof(Datum) * (rows + 1));
    int count = 0;
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        if (access_owns(caller, owner_of_row(i, 2)))
            ids[count++] = spi_value(i, 1, &is_null);
    }
    if (count == 0)
        return construct_empty_array(INT8OID);
    return construct_array(ids, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

void check_subscription(Oid caller, int64 subscription_id) {
    Datum arguments[1] = {Int64GetDatum(subscription_id)};
    if (internal_execute(&one_owner, arguments) == 0 || !access_manages(caller, owner_of_row(0, 2)))
        ereport(ERROR, errcode(ERRCODE_WH_NO_SUBSCRIPTION),
                errmsg("subscription " INT64_FORMAT " does not exist", subscription_id),
                errhint("whisperer.subscriptions lists those there are."));
}

} // namespace whisperer::pg
