// From the outbox to the tables: what became of each attempt, many in one transaction. The delivery worker's
// results and those of a synchronous delivery go through the same code.
//
// What is settled, most of it, goes without SQL (settling.hpp); what is sent again, or was cancelled
// meanwhile, by a statement for all of its kind. Rows are taken in key order and never waited for: what a
// session holds (an open cancel()) is tried again.
#include "pg/prelude.hpp"

#include "pg/delivery_worker.hpp"
#include "pg/internal_sql.hpp"
#include "pg/job_writer.hpp"
#include "pg/receiver_states.hpp"
#include "pg/recorder.hpp"
#include "pg/roster.hpp"
#include "pg/settling.hpp"
#include "pg/transcode.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

// Results written by one transaction.
constexpr size_t results_at_once = 500;
// And bytes of their responses, a larger one by itself: they go as one value, four times as large if they are
// no text.
constexpr size_t response_bytes_at_once = 64 * 1024 * 1024;
// A row that somebody else has locked is tried again after this.
constexpr int64 locked_again = 200 * 1000;

Statement lock_statement = {
    "SELECT uuid FROM whisperer.delivery WHERE uuid = ANY ($1) ORDER BY uuid FOR UPDATE SKIP LOCKED",
    1,
    {UUIDARRAYOID},
    nullptr};
Statement present_statement = {
    "SELECT uuid FROM whisperer.delivery WHERE uuid = ANY ($1)", 1, {UUIDARRAYOID}, nullptr};

#define RESULT_COLUMNS "uuid, state, attempts, status, content, elapsed, error, attempted_at, due"
#define RESULT_ARRAYS "unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS r (" RESULT_COLUMNS ")"
#define RESULT_TYPES                                                                                         \
    {                                                                                                        \
        UUIDARRAYOID, TEXTARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID,    \
            TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID, XID8ARRAYOID                           \
    }
#define NEW_DATETIMES                                                                                        \
    "CASE WHEN r.attempted_at IS NULL THEN d.request_datetimes ELSE r.attempted_at || d.request_datetimes "  \
    "END"
#define NEW_RESPONSE_TIME "pg_catalog.make_interval(secs => r.elapsed / 1e6)"

// Not joined: which of the two a join begins with is up to statistics, and where they say that hardly any row
// is there, it begins with a walk over the whole primary key, dead rows and all. The responses stay out of
// what is looked through for each row: they are large.
#define RETRY_SQL(columns, values)                                                                           \
    "UPDATE whisperer.delivery d SET modified_date = $10, (attempts, response_http_status,"                  \
    " response_content, response_time, error, request_datetimes, " columns                                   \
    ") = (SELECT r.attempts, r.status, ($5)[r.n], " NEW_RESPONSE_TIME ", r.error, " NEW_DATETIMES            \
    ", " values " FROM unnest($1, $3, $4, $6, $7, $8, $9, $11) WITH ORDINALITY"                              \
    " AS r (uuid, attempts, status, elapsed, error, attempted_at, due, xid, n) WHERE r.uuid = d.uuid)"       \
    " WHERE d.uuid = ANY ($1)"
// Somebody has asked for another attempt since this one began (whisperer.retry()): it is new work, and not
// the countdown's. Told by the transaction and not by the time, since clocks are put back.
#define ASKED_MEANWHILE "d.due IS NULL AND d.not_before IS NULL AND d.xid <> r.xid"
Statement retry_statement = {
    RETRY_SQL("due, not_before, xid",
              "CASE WHEN " ASKED_MEANWHILE " THEN NULL ELSE r.due END, NULL::pg_catalog.timestamptz,"
              " CASE WHEN " ASKED_MEANWHILE
              " THEN pg_catalog.pg_current_xact_id() ELSE d.xid END") " RETURNING CASE WHEN due IS NULL THEN "
                                                                      "subscription_id END",
    11, RESULT_TYPES, nullptr};
// A session does not write `due`: the worker finds the row at the commit and waits for not_before.
Statement hand_over_statement = {
    RETRY_SQL("due, not_before, xid", "NULL::pg_catalog.timestamptz, r.due, pg_catalog.pg_current_xact_id()"),
    11, RESULT_TYPES, nullptr};

// What was cancelled while it was in flight: the attempt belongs to its story, and if the receiver took it,
// it is delivered.
Statement cancelled_statement = {
    "UPDATE whisperer.history d SET state = r.state, attempts = r.attempts, response_http_status = r.status,"
    " response_content = r.content, response_time = " NEW_RESPONSE_TIME
    ", error = r.error, request_datetimes = " NEW_DATETIMES ", modified_date = $10 FROM " RESULT_ARRAYS
    " WHERE d.uuid = r.uuid AND d.state = 'cancelled' AND d.uuid IN (SELECT h.uuid FROM whisperer.history h"
    " WHERE h.uuid = ANY ($1) FOR UPDATE SKIP LOCKED) RETURNING d.uuid",
    11, RESULT_TYPES, nullptr};
// Of those that were not written: what is there all the same. Somebody has the row locked, or has just made
// it pending again.
Statement kept_statement = {"SELECT uuid FROM whisperer.history WHERE uuid = ANY ($1) AND state = 'cancelled'"
                            " UNION ALL SELECT uuid FROM whisperer.delivery WHERE uuid = ANY ($1)",
                            1,
                            {UUIDARRAYOID},
                            nullptr};

// What is to be done with the row of a result.
enum class Fate : uint8_t { settle, retry, cancelled, postpone };

// The batch under way: the first results of the outbox, from their being written to take_written().
struct Recording {
    size_t count;
    Fate fates[results_at_once];
};
Recording recording;

int compare_uuids(const void *a, const void *b) {
    return memcmp(a, b, sizeof(core::Uuid));
}

// The uuids of the last result, sorted, to look one up.
struct UuidSet {
    core::Uuid *uuids;
    size_t count;

    bool has(const core::Uuid &uuid) const {
        return count > 0 && bsearch(&uuid, uuids, count, sizeof(core::Uuid), compare_uuids) != nullptr;
    }
};

// The first column of the last result's rows.
UuidSet result_uuids() {
    uint64 rows = SPI_processed;
    UuidSet set = {(core::Uuid *)palloc(sizeof(core::Uuid) * Max(rows, (uint64)1)), rows};
    for (uint64 i = 0; i < rows; i++)
        set.uuids[i] = spi_uuid(i, 1);
    qsort(set.uuids, set.count, sizeof(core::Uuid), compare_uuids);
    return set;
}

UuidSet query_uuids(Statement *statement, Datum array) {
    Datum arguments[1] = {array};
    internal_execute(statement, arguments);
    return result_uuids();
}

Datum uuid_array(core::Uuid *uuids, size_t count) {
    Datum *values = (Datum *)palloc(sizeof(Datum) * Max(count, (size_t)1));
    for (size_t i = 0; i < count; i++)
        values[i] = PointerGetDatum(uuids[i].bytes);
    return array_of(values, nullptr, count, UUIDOID);
}

bool is_settling(core::Outcome outcome) {
    return outcome != core::Outcome::retry;
}

// What is settled goes to the history, in the order of the uuids.
void settle_deliveries(core::Outbox *box) {
    struct Place {
        core::Uuid uuid; // first: compare_uuids() sees only this
        size_t result;
    };
    Place *places = (Place *)palloc(sizeof(Place) * recording.count);
    size_t count = 0;
    for (size_t i = 0; i < recording.count; i++) {
        core::AttemptResult result = box->result(i);
        if (is_settling(result.outcome))
            places[count++] = Place{result.uuid, i};
    }
    if (count == 0)
        return;
    qsort(places, count, sizeof(Place), compare_uuids);
    Settling *settling = settling_begin();
    for (size_t i = 0; i < count; i++) {
        Settled settled = settle(settling, box->result(places[i].result));
        recording.fates[places[i].result] = settled == Settled::done     ? Fate::settle
                                            : settled == Settled::locked ? Fate::postpone
                                                                         : Fate::cancelled;
    }
    settling_end(settling);
}

// Locks the rows of those that are to be sent again.
void lock_retries(core::Outbox *box) {
    core::Uuid *uuids = (core::Uuid *)palloc(sizeof(core::Uuid) * recording.count);
    size_t count = 0;
    for (size_t i = 0; i < recording.count; i++)
        if (!is_settling(box->result(i).outcome))
            uuids[count++] = box->result(i).uuid;
    if (count == 0)
        return;
    UuidSet locked = query_uuids(&lock_statement, uuid_array(uuids, count));
    UuidSet present = {nullptr, 0};
    if (locked.count < count)
        present = query_uuids(&present_statement, uuid_array(uuids, count));
    for (size_t i = 0; i < recording.count; i++) {
        core::AttemptResult result = box->result(i);
        if (!is_settling(result.outcome))
            recording.fates[i] = locked.has(result.uuid)    ? Fate::retry
                                 : present.has(result.uuid) ? Fate::postpone
                                                            : Fate::cancelled;
    }
}

// Columns of the result arrays, in the order of RESULT_COLUMNS.
struct Columns {
    int count;
    Datum uuid[results_at_once], state[results_at_once], attempts[results_at_once], status[results_at_once],
        content[results_at_once], elapsed[results_at_once], error[results_at_once],
        attempted[results_at_once], due[results_at_once], xid[results_at_once];
    bool no_status[results_at_once], no_error[results_at_once], no_attempt[results_at_once],
        no_due[results_at_once];
    core::Uuid uuids[results_at_once];
};

// Of what was cancelled. What goes on has none.
const char *state_name(core::Outcome outcome) {
    return outcome == core::Outcome::delivered ? "delivered" : "cancelled";
}

void add_column(Columns *columns, const core::AttemptResult &result, Fate fate) {
    int i = columns->count++;
    columns->uuids[i] = result.uuid;
    columns->uuid[i] = PointerGetDatum(columns->uuids[i].bytes);
    columns->state[i] = CStringGetTextDatum(state_name(result.outcome));
    columns->attempts[i] = Int32GetDatum(result.attempts);
    columns->status[i] = Int32GetDatum(result.status);
    // Without a response there is no content; an empty one is an empty text.
    columns->no_status[i] = result.status == 0;
    columns->content[i] = result.status == 0
                              ? (Datum)0
                              : CStringGetTextDatum(response_text(result.body, result.body_truncated));
    columns->elapsed[i] = Int64GetDatum(result.elapsed);
    columns->no_error[i] = result.error.empty();
    columns->error[i] = result.error.empty() ? (Datum)0 : CStringGetTextDatum(error_text(result.error));
    columns->no_attempt[i] = result.attempted_at == 0;
    columns->attempted[i] =
        result.attempted_at == 0 ? (Datum)0 : TimestampTzGetDatum(to_timestamp(result.attempted_at));
    columns->no_due[i] = fate != Fate::retry;
    columns->due[i] = fate != Fate::retry ? (Datum)0 : TimestampTzGetDatum(to_timestamp(result.due));
    columns->xid[i] = UInt64GetDatum(result.xid);
}

// How many there are of that fate; the statement's rows, if it returns any, are the last result.
size_t write_fate(core::Outbox *box, Fate fate, Statement *statement) {
    Columns *columns = (Columns *)palloc(sizeof(Columns));
    columns->count = 0;
    for (size_t i = 0; i < recording.count; i++)
        if (recording.fates[i] == fate)
            add_column(columns, box->result(i), fate);
    size_t n = (size_t)columns->count;
    if (n == 0)
        return 0;
    Datum arguments[11] = {array_of(columns->uuid, nullptr, n, UUIDOID),
                           array_of(columns->state, nullptr, n, TEXTOID),
                           array_of(columns->attempts, nullptr, n, INT4OID),
                           array_of(columns->status, columns->no_status, n, INT4OID),
                           array_of(columns->content, columns->no_status, n, TEXTOID),
                           array_of(columns->elapsed, columns->no_attempt, n, INT8OID),
                           array_of(columns->error, columns->no_error, n, TEXTOID),
                           array_of(columns->attempted, columns->no_attempt, n, TIMESTAMPTZOID),
                           array_of(columns->due, columns->no_due, n, TIMESTAMPTZOID),
                           TimestampTzGetDatum(GetCurrentTimestamp()),
                           array_of(columns->xid, nullptr, n, XID8OID)};
    internal_execute(statement, arguments);
    return n;
}

// What was cancelled may have been a success all the same: it is not lost because somebody has the row of the
// history locked at this moment.
void write_cancelled(core::Outbox *box) {
    size_t count = write_fate(box, Fate::cancelled, &cancelled_statement);
    if (count == 0 || SPI_processed == count)
        return;
    UuidSet written = result_uuids();
    core::Uuid *uuids = (core::Uuid *)palloc(sizeof(core::Uuid) * count);
    size_t left = 0;
    for (size_t i = 0; i < recording.count; i++)
        if (recording.fates[i] == Fate::cancelled && !written.has(box->result(i).uuid))
            uuids[left++] = box->result(i).uuid;
    UuidSet kept = query_uuids(&kept_statement, uuid_array(uuids, left));
    for (size_t i = 0; i < recording.count; i++)
        if (recording.fates[i] == Fate::cancelled && !written.has(box->result(i).uuid) &&
            kept.has(box->result(i).uuid))
            recording.fates[i] = Fate::postpone;
}

// Calls of users' functions that the attempts ask for. Costs nothing where there are none.
void write_jobs(core::Outbox *box) {
    JobBatch *batch = nullptr;
    for (size_t i = 0; i < recording.count; i++) {
        core::AttemptResult result = box->result(i);
        bool countdown = result.custom_countdown && recording.fates[i] == Fate::retry;
        if ((!result.has_callback && !countdown) || recording.fates[i] == Fate::postpone ||
            result.attempted_at == 0)
            continue;
        if (batch == nullptr)
            batch = jobs_begin(2 * recording.count);
        if (result.has_callback)
            jobs_add(batch, JobKind::callback, result);
        if (countdown)
            jobs_add(batch, JobKind::countdown, result);
    }
    if (batch != nullptr)
        jobs_write(batch);
}

size_t next_batch(const core::Outbox *box) {
    size_t most = Min(box->result_count(), results_at_once);
    size_t bytes = 0;
    for (size_t i = 0; i < most; i++) {
        bytes += box->result(i).body.len;
        if (i > 0 && bytes > response_bytes_at_once)
            return i;
    }
    return most;
}

// Of the last result's subscriptions, those that have new work.
void wake_asked_for() {
    bool is_null;
    for (uint64 i = 0; i < SPI_processed; i++) {
        Datum subscription = spi_value(i, 1, &is_null);
        if (!is_null)
            wake_due(DatumGetInt64(subscription), 0);
    }
}

// The results whose turn it is go to the tables; the row of one that is to be sent again is written by
// `retry`.
void write_results(core::Outbox *box, Statement *retry) {
    recording.count = next_batch(box);
    if (recording.count == 0)
        return;
    settle_deliveries(box);
    lock_retries(box);
    if (write_fate(box, Fate::retry, retry) > 0 && retry == &retry_statement)
        wake_asked_for();
    write_cancelled(box);
    write_jobs(box);
}

// What was written leaves the outbox, and is counted.
RecordedCounts take_written(core::Outbox *box) {
    RecordedCounts counts = {0, 0, 0, 0};
    for (size_t i = 0; i < recording.count; i++) {
        if (recording.fates[i] == Fate::postpone) {
            box->postpone(i, wall_clock() + locked_again);
            continue;
        }
        core::AttemptResult result = box->result(i);
        counts.attempts += result.attempted_at != 0;
        counts.delivered += result.outcome == core::Outcome::delivered;
        counts.failed += recording.fates[i] == Fate::settle && result.outcome != core::Outcome::delivered;
        counts.settled += recording.fates[i] == Fate::settle;
        box->recorded(i);
    }
    box->settle_results();
    recording.count = 0;
    return counts;
}

} // namespace

RecordedCounts record_in_session(core::Outbox *box) {
    RecordedCounts total = {0, 0, 0, 0};
    while (box->result_count() > 0) {
        write_results(box, &hand_over_statement);
        RecordedCounts counts = take_written(box);
        total.attempts += counts.attempts;
        total.delivered += counts.delivered;
        total.failed += counts.failed;
        total.settled += counts.settled;
    }
    return total;
}

void record_results(DeliveryWorker *worker) {
    write_results(worker->box, &retry_statement);
    save_receiver_states(worker->box);
}

void record_committed(DeliveryWorker *worker) {
    RecordedCounts counts = take_written(worker->box);
    receiver_states_saved();
    roster_count(COUNT_ATTEMPTS, counts.attempts);
    roster_count(COUNT_DELIVERED, counts.delivered);
    roster_count(COUNT_FAILED, counts.failed);
    if (counts.settled > 0)
        roster_broadcast_settled();
}

void record_failed(DeliveryWorker *worker) {
    receiver_states_not_saved(worker->box);
    recording.count = 0;
}

} // namespace whisperer::pg
