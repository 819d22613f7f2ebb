#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/own_table.hpp"
#include "pg/settling.hpp"
#include "pg/table_writer.hpp"
#include "pg/transcode.hpp"
#include "pg/wall_clock.hpp"

extern "C" {
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

// Columns of the history: first those that come from the result, then those that are the delivery's of the
// same name.
enum Column {
    COLUMN_STATE,
    COLUMN_ATTEMPTS,
    COLUMN_STATUS,
    COLUMN_CONTENT,
    COLUMN_TIME,
    COLUMN_ERROR,
    COLUMN_MODIFIED,
    COLUMN_DATETIMES, // of both
    columns = 17
};
constexpr int first_kept = COLUMN_DATETIMES;
TableWriter history = {"history",
                       columns,
                       {"state", "attempts", "response_http_status", "response_content", "response_time",
                        "error", "modified_date", "request_datetimes", "uuid", "subscription_id",
                        "event_type", "event_uuid", "payload", "body", "relation_schema", "relation_name",
                        "created_date"},
                       nullptr};

} // namespace

struct Settling {
    Relation delivery;
    Relation primary_key;
    Snapshot snapshot;
    CommandId command;
    IndexScanDesc scan;
    ScanKeyData key;
    TupleTableSlot *row;
    AttrNumber sources[columns]; // in the delivery, from first_kept
    TimestampTz now;
    Datum delivered;
    Datum failed;
    // A row for the history, and what it is made of: a response may be large.
    MemoryContext memory;
    Datum values[columns];
    bool nulls[columns];
};

namespace {

// The row was locked, by this transaction or by somebody else, or has changed since the snapshot.
TM_Result take_contested(Settling *settling) {
    // Where the isolation level has one snapshot for all, what changed since is not to be followed.
    uint8 flags = IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
    ItemPointerData place = settling->row->tts_tid;
    TM_FailureData failure;
    TM_Result result = table_tuple_lock(settling->delivery, &place, settling->snapshot, settling->row,
                                        settling->command, LockTupleExclusive, LockWaitSkip, flags, &failure);
    if (result == TM_Ok)
        result = table_tuple_delete(settling->delivery, &settling->row->tts_tid, settling->command,
                                    settling->snapshot, InvalidSnapshot, true, &failure, false);
    if (IsolationUsesXactSnapshot() && (result == TM_Updated || result == TM_Deleted))
        ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                errmsg("could not serialize access due to concurrent %s",
                       result == TM_Updated ? "update" : "delete"));
    return result;
}

// Finds the delivery and deletes it, without locking it first: that would be written to the log too. If it
// was done, the row's last contents are in the slot.
Settled take_delivery(Settling *settling, const core::Uuid &uuid) {
    settling->key.sk_argument = PointerGetDatum(uuid.bytes);
    index_rescan(settling->scan, &settling->key, 1, nullptr, 0);
    if (!index_getnext_slot(settling->scan, ForwardScanDirection, settling->row))
        return Settled::gone;
    TM_FailureData failure;
    TM_Result result = table_tuple_delete(settling->delivery, &settling->row->tts_tid, settling->command,
                                          settling->snapshot, InvalidSnapshot, false, &failure, false);
    if (result != TM_Ok)
        result = take_contested(settling);
    switch (result) {
    case TM_Ok:
        return Settled::done;
    case TM_WouldBlock:
        return Settled::locked;
    case TM_Deleted:
        return Settled::gone;
    default:
        elog(ERROR, "whisperer could not delete a row of whisperer.delivery: %d", (int)result);
    }
}

// The times of all attempts, this one first.
Datum with_attempt(Datum before, TimestampTz attempted_at) {
    ArrayType *old = DatumGetArrayTypeP(before);
    // We write no nulls; what somebody else wrote is not ours to read past.
    bool sound = !ARR_HASNULL(old) && ARR_ELEMTYPE(old) == TIMESTAMPTZOID;
    int count = sound ? ArrayGetNItems(ARR_NDIM(old), ARR_DIMS(old)) : 0;
    size_t size = ARR_OVERHEAD_NONULLS(1) + sizeof(TimestampTz) * (size_t)(count + 1);
    ArrayType *array = (ArrayType *)palloc0(size);
    SET_VARSIZE(array, size);
    array->ndim = 1;
    array->elemtype = TIMESTAMPTZOID;
    ARR_DIMS(array)[0] = count + 1;
    ARR_LBOUND(array)[0] = 1;
    TimestampTz *times = (TimestampTz *)ARR_DATA_PTR(array);
    times[0] = attempted_at;
    memcpy(times + 1, ARR_DATA_PTR(old), sizeof(TimestampTz) * (size_t)count);
    return PointerGetDatum(array);
}

void set(Settling *settling, Column column, Datum value, bool is_null = false) {
    settling->values[column] = value;
    settling->nulls[column] = is_null;
}

void set_kept(Settling *settling) {
    for (int i = first_kept; i < columns; i++)
        settling->values[i] = slot_getattr(settling->row, settling->sources[i], &settling->nulls[i]);
}

void set_result(Settling *settling, const core::AttemptResult &result) {
    bool delivered = result.outcome == core::Outcome::delivered;
    set(settling, COLUMN_STATE, delivered ? settling->delivered : settling->failed);
    set(settling, COLUMN_ATTEMPTS, Int32GetDatum(result.attempts));
    set(settling, COLUMN_MODIFIED, TimestampTzGetDatum(settling->now));
    // Without a response there is no content; an empty one is an empty text.
    bool answered = result.status != 0;
    set(settling, COLUMN_STATUS, Int32GetDatum(result.status), !answered);
    set(settling, COLUMN_CONTENT,
        answered ? CStringGetTextDatum(response_text(result.body, result.body_truncated)) : (Datum)0,
        !answered);
    bool fine = result.error.empty();
    set(settling, COLUMN_ERROR, fine ? (Datum)0 : CStringGetTextDatum(error_text(result.error)), fine);
    bool requested = result.attempted_at != 0;
    Interval *elapsed = (Interval *)palloc0(sizeof(Interval));
    elapsed->time = result.elapsed;
    set(settling, COLUMN_TIME, PointerGetDatum(elapsed), !requested);
    if (requested)
        set(settling, COLUMN_DATETIMES,
            with_attempt(settling->values[COLUMN_DATETIMES], to_timestamp(result.attempted_at)));
}

void find_columns(Settling *settling) {
    for (int i = first_kept; i < columns; i++) {
        settling->sources[i] = get_attnum(RelationGetRelid(settling->delivery), history.columns[i]);
        if (settling->sources[i] == InvalidAttrNumber)
            elog(ERROR, "whisperer.delivery has no column \"%s\"", history.columns[i]);
    }
}

} // namespace

Settling *settling_begin() {
    PreventCommandIfReadOnly("DELETE");
    Settling *settling = (Settling *)palloc0(sizeof(Settling));
    // What this transaction has done so far is seen; what it does now is not.
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
    settling->snapshot = GetActiveSnapshot();
    settling->command = GetCurrentCommandId(true);
    settling->delivery = table_open(own_relation("delivery"), RowExclusiveLock);
    settling->primary_key = index_open(own_relation("delivery_pkey"), RowExclusiveLock);
    settling->row = table_slot_create(settling->delivery, nullptr);
    settling->scan = compat_index_beginscan(settling->delivery, settling->primary_key, settling->snapshot, 1);
    ScanKeyInit(&settling->key, 1, BTEqualStrategyNumber, F_UUID_EQ, (Datum)0);
    find_columns(settling);
    settling->delivered = CStringGetTextDatum("delivered");
    settling->failed = CStringGetTextDatum("failed");
    settling->now = GetCurrentTimestamp();
    settling->memory =
        AllocSetContextCreate(CurrentMemoryContext, "whisperer settling", ALLOCSET_DEFAULT_SIZES);
    writer_begin(&history);
    return settling;
}

Settled settle(Settling *settling, const core::AttemptResult &result) {
    Settled settled = take_delivery(settling, result.uuid);
    if (settled == Settled::done) {
        MemoryContext old = MemoryContextSwitchTo(settling->memory);
        set_kept(settling);
        set_result(settling, result);
        writer_put(&history, settling->values, settling->nulls);
        MemoryContextSwitchTo(old);
        MemoryContextReset(settling->memory);
    }
    return settled;
}

void settling_end(Settling *settling) {
    index_endscan(settling->scan);
    ExecDropSingleTupleTableSlot(settling->row);
    index_close(settling->primary_key, NoLock);
    table_close(settling->delivery, NoLock);
    writer_end(&history);
    MemoryContextDelete(settling->memory);
    PopActiveSnapshot();
}

} // namespace whisperer::pg
