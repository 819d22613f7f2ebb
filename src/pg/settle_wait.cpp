#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/compat.hpp"
#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/roster.hpp"
#include "pg/settle_wait.hpp"
#include "pg/visibility.hpp"
#include "pg/wake.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

// A broadcast that was missed (the worker died between its commit and the broadcast) costs this much at most.
constexpr long recheck_ms = 1000;
constexpr int64 for_ever = PG_INT64_MAX;

Statement snapshot_now = {"SELECT pg_catalog.pg_current_snapshot()", 0, {}, nullptr};

// Was it there at the call? $1: the snapshot of the call, $3: its time. A delivery that was attempted may
// have been handed to the worker anew since, by retry() or by the process of a custom countdown, under the
// transaction of that: then it is told by when it was raised. One that was raised in what is the future now
// was so before the clock was put back; most likely before the call, too.
#define RAISED_BEFORE(row)                                                                                   \
    "(" row ".created_date OPERATOR(pg_catalog.<) $3"                                                        \
    " OR " row ".created_date OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())"
#define THERE_AT_CALL(row)                                                                                   \
    "(pg_catalog.pg_visible_in_snapshot(" row ".xid, $1)"                                                    \
    " OR " row ".attempts OPERATOR(pg_catalog.>) 0 AND " RAISED_BEFORE(row) ")"

// $2: subscriptions visible, or null for all. For each subscription the retry that is due last, or else the
// newest first attempt: both at the far ends of their indexes, where the rows already finished are not; or
// what was handed over anew, which has an index of its own.
Statement find_witness = {
    "SELECT d.uuid FROM whisperer.subscription s CROSS JOIN LATERAL ("
    "(SELECT r.uuid FROM whisperer.delivery r WHERE r.subscription_id = s.id AND r.due IS NOT NULL"
    " AND " THERE_AT_CALL(
        "r") " ORDER BY r.due DESC LIMIT 1)"
             " UNION ALL "
             "(SELECT n.uuid FROM whisperer.delivery n WHERE n.subscription_id = s.id AND n.due IS NULL"
             " AND n.xid OPERATOR(pg_catalog.<) pg_catalog.pg_snapshot_xmax($1)"
             " AND pg_catalog.pg_visible_in_snapshot(n.xid, $1) ORDER BY n.xid DESC, n.uuid DESC LIMIT 1)"
             " UNION ALL "
             "(SELECT a.uuid FROM whisperer.delivery a WHERE a.subscription_id = s.id AND a.due IS NULL"
             " AND a.attempts OPERATOR(pg_catalog.>) 0 AND " RAISED_BEFORE(
                 "a") " LIMIT 1)"
                      ") d WHERE $2 IS NULL OR s.id = ANY ($2) LIMIT 1",
    3,
    {PG_SNAPSHOTOID, INT8ARRAYOID, TIMESTAMPTZOID},
    nullptr};

Statement see_witness = {"SELECT 1 FROM whisperer.delivery d WHERE d.uuid = $2 AND " THERE_AT_CALL("d"),
                         3,
                         {PG_SNAPSHOTOID, UUIDOID, TIMESTAMPTZOID},
                         nullptr};

#undef THERE_AT_CALL
#undef RAISED_BEFORE

struct Wait {
    Datum at_call; // pg_snapshot
    TimestampTz called;
    ArrayType *visible; // null: all
    bool has_witness;
    pg_uuid_t witness;
};

// GetLatestSnapshot() may be reused by the next caller: registered while in use.
uint64 look(Statement *statement, Datum *arguments, const char *nulls) {
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    uint64 rows = internal_execute_snapshot(statement, arguments, nulls, snapshot);
    UnregisterSnapshot(snapshot);
    return rows;
}

void wait_start(Wait *wait, Oid caller) {
    MemoryContext keep = CurrentMemoryContext;
    wait->called = GetCurrentTimestamp();
    InternalSql sql;
    internal_begin(&sql);
    look(&snapshot_now, nullptr, nullptr);
    bool is_null;
    Datum at_call = spi_value(0, 1, &is_null);
    Viewer viewer = viewer_of(caller);
    ArrayType *visible = viewer.others == Sight::none ? visible_subscriptions(viewer) : nullptr;
    MemoryContext spi = MemoryContextSwitchTo(keep);
    wait->at_call = datumCopy(at_call, false, -1);
    wait->visible = visible == nullptr ? nullptr : DatumGetArrayTypePCopy(PointerGetDatum(visible));
    MemoryContextSwitchTo(spi);
    internal_end(&sql);
    wait->has_witness = false;
}

bool witness_waits(Wait *wait) {
    if (!wait->has_witness)
        return false;
    Datum arguments[3] = {wait->at_call, UUIDPGetDatum(&wait->witness), TimestampTzGetDatum(wait->called)};
    return look(&see_witness, arguments, nullptr) > 0;
}

bool all_settled(Wait *wait) {
    InternalSql sql;
    internal_begin(&sql);
    internal_read_in_order();
    if (!witness_waits(wait)) {
        Datum arguments[3] = {wait->at_call, PointerGetDatum(wait->visible),
                              TimestampTzGetDatum(wait->called)};
        wait->has_witness = look(&find_witness, arguments, wait->visible == nullptr ? " n " : nullptr) > 0;
        if (wait->has_witness) {
            bool is_null;
            wait->witness = *DatumGetUUIDP(spi_value(0, 1, &is_null));
        }
    }
    internal_end(&sql);
    return !wait->has_witness;
}

// Until the next look.
long milliseconds_to_wait(int64 left) {
    return left >= recheck_ms * 1000 ? recheck_ms : static_cast<long>((left + 999) / 1000);
}

// Where there is no condition variable to wait on, because the database has no place in shared memory.
void wait_without_slot(long timeout_ms) {
    static uint32 wait_event = 0;
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
                    compat_wait_event(&wait_event, "WhispererSettled"));
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
}

// The deadline of a timeout from now, as monotonic_micros() counts: how long its months and days are the
// calendar says, once. A hundred thousand years are taken for ever, since adding them might overflow.
int64 deadline_after(Interval *timeout) {
    Interval too_long = {0, 0, 12 * 100000};
    if (DatumGetInt32(
            DirectFunctionCall2(interval_cmp, IntervalPGetDatum(timeout), IntervalPGetDatum(&too_long))) > 0)
        return for_ever;
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz then = DatumGetTimestampTz(
        DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), IntervalPGetDatum(timeout)));
    return monotonic_micros() + (then - now);
}

void check_timeout(Interval *timeout) {
    Interval zero = {0, 0, 0};
    if (DatumGetInt32(
            DirectFunctionCall2(interval_cmp, IntervalPGetDatum(timeout), IntervalPGetDatum(&zero))) >= 0)
        return;
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("timeout must not be negative: %s",
                   DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(timeout)))),
            errhint("Give an interval such as '10 s'; 0 looks once and does not wait."));
}

} // namespace

bool wait_until_settled(Oid caller, int64 deadline) {
    Wait wait;
    wait_start(&wait, caller);
    bool settled;
    for (;;) {
        // Before the look: what settles after it is then a broadcast that the wait sees.
        bool signalled = roster_settled_prepare();
        settled = all_settled(&wait);
        int64 left = deadline - monotonic_micros();
        if (settled || left <= 0)
            break;
        if (signalled)
            (void)roster_settled_wait(milliseconds_to_wait(left));
        else
            wait_without_slot(milliseconds_to_wait(left));
    }
    roster_settled_cancel();
    return settled;
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.wait_until_settled(timeout interval)
WHISPERER_SQL_FUNCTION(whisperer_wait_until_settled) {
    Oid caller = GetUserId();
    if (PG_ARGISNULL(0))
        raise_null_argument("timeout", "Give an interval such as '10 s'.");
    Interval *timeout = PG_GETARG_INTERVAL_P(0);
    check_timeout(timeout);
    access_check(caller, Access::deliver, nullptr);
    PreventCommandDuringRecovery("whisperer.wait_until_settled()"); // nothing is sent from a standby
    PreventCommandIfParallelMode("whisperer.wait_until_settled()"); // it takes new snapshots
    if (wake_has_uncommitted_deliveries())
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("this transaction holds deliveries that are not committed"),
                errdetail("They are sent only after the commit, for which they would wait in vain."),
                errhint("Commit first, then call whisperer.wait_until_settled()."));
    PG_RETURN_BOOL(wait_until_settled(caller, deadline_after(timeout)));
}
