#include "pg/prelude.hpp"

#include "pg/statistics.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/own_table.hpp"
#include "pg/roster.hpp"
#include "pg/table_writer.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

struct Totals {
    int64 counters[counter_kinds];
    TimestampTz reset;
};

constexpr int total_columns = counter_kinds + 1;

Totals last_saved; // by this process

Statement select_totals = {"SELECT events, deliveries, attempts, delivered, failed, cancelled, callbacks, "
                           "callback_errors, stats_reset FROM whisperer.statistics_total",
                           0,
                           {},
                           nullptr};

// Not if somebody has the row locked (an open reset_statistics()): the worker must not wait for that.
Statement update_totals = {
    "UPDATE whisperer.statistics_total SET events = $1, deliveries = $2, attempts = $3, "
    "delivered = $4, failed = $5, cancelled = $6, callbacks = $7, callback_errors = $8, "
    "stats_reset = $9 WHERE ctid = ANY (ARRAY (SELECT ctid FROM whisperer.statistics_total FOR UPDATE SKIP "
    "LOCKED))",
    total_columns,
    {INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID},
    nullptr};

Statement insert_totals = {
    "INSERT INTO whisperer.statistics_total VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    total_columns,
    {INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID},
    nullptr};

Statement delete_totals = {"DELETE FROM whisperer.statistics_total", 0, {}, nullptr};

// ---- What prepared transactions counted

constexpr const char *prepared_table = "statistics_prepared";

TableWriter prepared = {
    prepared_table,
    counter_kinds,
    {"events", "deliveries", "attempts", "delivered", "failed", "cancelled", "callbacks", "callback_errors"},
    nullptr};

#define PREPARED_SUMS                                                                                        \
    "SELECT pg_catalog.sum(events)::bigint, pg_catalog.sum(deliveries)::bigint,"                             \
    " pg_catalog.sum(attempts)::bigint, pg_catalog.sum(delivered)::bigint, pg_catalog.sum(failed)::bigint,"  \
    " pg_catalog.sum(cancelled)::bigint, pg_catalog.sum(callbacks)::bigint,"                                 \
    " pg_catalog.sum(callback_errors)::bigint FROM "

Statement select_prepared = {PREPARED_SUMS "whisperer.statistics_prepared", 0, {}, nullptr};

// Not what an open reset_statistics() deletes.
Statement take_prepared = {
    "WITH taken AS (DELETE FROM whisperer.statistics_prepared WHERE ctid = ANY (ARRAY (SELECT ctid FROM"
    " whisperer.statistics_prepared FOR UPDATE SKIP LOCKED)) RETURNING *) " PREPARED_SUMS "taken",
    0,
    {},
    nullptr};

Statement delete_prepared = {"DELETE FROM whisperer.statistics_prepared", 0, {}, nullptr};

uint64 taken[counter_kinds]; // by this process, in the transaction under way

// The sums of the last result; NULL where there is no row.
void read_sums(uint64 *sums) {
    bool is_null;
    for (int i = 0; i < counter_kinds; i++) {
        Datum sum = spi_value(0, i + 1, &is_null);
        sums[i] = is_null ? 0 : (uint64)DatumGetInt64(sum);
    }
}

// False: nothing was saved yet.
bool read_saved(Totals *totals) {
    if (internal_execute(&select_totals, nullptr) == 0)
        return false;
    bool is_null;
    for (int i = 0; i < counter_kinds; i++)
        totals->counters[i] = DatumGetInt64(spi_value(0, i + 1, &is_null));
    totals->reset = DatumGetTimestampTz(spi_value(0, total_columns, &is_null));
    return true;
}

bool loaded(DatabaseSlot *slot) {
    return pg_atomic_read_u32(&slot->counters_loaded) != 0;
}

// True: with what was saved before the server's start.
bool read_shared(DatabaseSlot *slot, Totals *totals) {
    LWLockAcquire(roster->lock, LW_SHARED);
    bool all = loaded(slot);
    for (int i = 0; i < counter_kinds; i++)
        totals->counters[i] = static_cast<int64>(pg_atomic_read_u64(&slot->counters[i]));
    totals->reset = slot->stats_reset;
    LWLockRelease(roster->lock);
    return all;
}

void to_datums(const Totals &totals, Datum *datums) {
    for (int i = 0; i < counter_kinds; i++)
        datums[i] = Int64GetDatum(totals.counters[i]);
    datums[counter_kinds] = TimestampTzGetDatum(totals.reset);
}

} // namespace

void statistics_load() {
    DatabaseSlot *slot = roster_this_database();
    if (slot == nullptr || loaded(slot))
        return;
    InternalSql internal;
    Totals saved;
    internal_begin(&internal);
    bool any = read_saved(&saved);
    internal_end(&internal);
    // Nobody sees one without the other. A reset in between has said that nothing is to be added.
    LWLockAcquire(roster->lock, LW_EXCLUSIVE);
    if (!loaded(slot)) {
        pg_atomic_write_u32(&slot->counters_loaded, 1);
        if (any) {
            for (int i = 0; i < counter_kinds; i++)
                pg_atomic_fetch_add_u64(&slot->counters[i], saved.counters[i]);
            slot->stats_reset = saved.reset;
        }
    }
    LWLockRelease(roster->lock);
}

bool statistics_changed() {
    DatabaseSlot *slot = roster_this_database();
    Totals now;
    return slot != nullptr && read_shared(slot, &now) && memcmp(&now, &last_saved, sizeof(now)) != 0;
}

void statistics_save() {
    DatabaseSlot *slot = roster_this_database();
    Totals now;
    if (slot == nullptr || !read_shared(slot, &now) || memcmp(&now, &last_saved, sizeof(now)) == 0)
        return;
    Datum datums[total_columns];
    to_datums(now, datums);
    InternalSql internal;
    internal_begin(&internal);
    Totals saved;
    bool done = internal_execute(&update_totals, datums) > 0;
    if (!done && !read_saved(&saved))
        done = internal_execute(&insert_totals, datums) > 0;
    internal_end(&internal);
    if (done)
        last_saved = now;
}

void statistics_prepare(const uint64 *counts) {
    bool any = false;
    Datum values[counter_kinds];
    bool nulls[counter_kinds] = {};
    for (int i = 0; i < counter_kinds; i++) {
        any = any || counts[i] != 0;
        values[i] = Int64GetDatum((int64)counts[i]);
    }
    // A transaction may have become read-only after it wrote, and may have dropped the extension.
    if (!any || XactReadOnly || !own_relation_exists(prepared_table))
        return;
    writer_begin(&prepared);
    writer_put(&prepared, values, nulls);
    writer_end(&prepared);
}

void statistics_take_prepared() {
    InternalSql internal;
    internal_begin(&internal);
    (void)internal_execute(&take_prepared, nullptr);
    read_sums(taken);
    internal_end(&internal);
}

void statistics_prepared_taken() {
    for (int i = 0; i < counter_kinds; i++)
        roster_count(static_cast<Counter>(i), taken[i]);
}

// whisperer.statistics_row(): the totals of this database, those saved before the server's start included.
WHISPERER_SQL_FUNCTION(whisperer_statistics_row) {
    Oid caller = GetUserId();
    access_check(caller, Access::monitor, nullptr);
    TupleDesc descriptor;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "whisperer.statistics_row() must return a row");

    DatabaseSlot *slot = roster_this_database();
    Totals totals = {};
    bool known = slot != nullptr;
    if (slot == nullptr || !read_shared(slot, &totals)) {
        Totals saved;
        InternalSql internal;
        internal_begin(&internal);
        bool any = read_saved(&saved);
        internal_end(&internal);
        // If the worker has added it meanwhile, it may have saved the sum, too.
        if (any && (slot == nullptr || !read_shared(slot, &totals))) {
            for (int i = 0; i < counter_kinds; i++)
                totals.counters[i] += saved.counters[i];
            totals.reset = saved.reset;
        }
        known = known || any;
    }
    uint64 waiting[counter_kinds]; // until the worker adds them
    InternalSql internal;
    internal_begin(&internal);
    (void)internal_execute(&select_prepared, nullptr);
    read_sums(waiting);
    internal_end(&internal);
    for (int i = 0; i < counter_kinds; i++)
        totals.counters[i] += (int64)waiting[i];
    Datum datums[total_columns];
    bool nulls[total_columns] = {};
    to_datums(totals, datums);
    nulls[counter_kinds] = !known;
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), datums, nulls)));
}

// whisperer.reset_statistics(): at once, not at commit, as PostgreSQL's own resets.
WHISPERER_SQL_FUNCTION(whisperer_reset_statistics) {
    (void)fcinfo;
    Oid caller = GetUserId();
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.reset_statistics()");
    InternalSql internal;
    internal_begin(&internal);
    (void)internal_execute(&delete_totals, nullptr);
    (void)internal_execute(&delete_prepared, nullptr);
    internal_end(&internal);

    DatabaseSlot *slot = roster_this_database_make();
    if (slot != nullptr) {
        LWLockAcquire(roster->lock, LW_EXCLUSIVE);
        pg_atomic_write_u32(&slot->counters_loaded, 1);
        for (auto &counter : slot->counters)
            pg_atomic_write_u64(&counter, 0);
        slot->stats_reset = GetCurrentTimestamp();
        LWLockRelease(roster->lock);
    }
    PG_RETURN_VOID();
}

} // namespace whisperer::pg
