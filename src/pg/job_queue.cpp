#include "pg/prelude.hpp"

#include "pg/delivery_worker.hpp"
#include "pg/internal_sql.hpp"
#include "pg/job_queue.hpp"
#include "pg/job_writer.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

// A job that was taken up weighs so much (job.runs); where the process was ended by others, 1 of it stays:
// how a call may have others do that is without number, and none shall be made for ever.
#define RUN_WEIGHT 4
#define RUN_WEIGHT_FORGIVEN 3
#define RUN_WEIGHT_TEXT CppAsString2(RUN_WEIGHT)
#define RUN_WEIGHT_FORGIVEN_TEXT CppAsString2(RUN_WEIGHT_FORGIVEN)
// One that three processes did not survive is given up.
constexpr int most_weight = 3 * RUN_WEIGHT;
// Bytes kept of a function's error, which may be as long as the function likes.
constexpr int longest_error = 8192;

Statement known_statement = {
    "SELECT k.owner FROM unnest($2, $3) AS k (owner, mark) CROSS JOIN LATERAL (SELECT FROM whisperer.job j"
    " WHERE j.kind = $1 AND j.owner_oid = k.owner AND j.xid >= k.mark LIMIT 1) one",
    3,
    {CHAROID, OIDARRAYOID, XID8ARRAYOID},
    nullptr};

// The first owner of each gap between those known: what those have done already is not walked over. Nor is
// what others have: of rows below the mark only the index knows, not even whether they are dead.
Statement unknown_statement = {
    "SELECT n.owner_oid FROM unnest($2, $3) AS gap (low, high) CROSS JOIN LATERAL (SELECT j.owner_oid FROM "
    "whisperer.job j"
    " WHERE j.kind = $1 AND j.owner_oid > gap.low AND j.owner_oid < gap.high AND j.xid >= $4"
    " ORDER BY j.owner_oid LIMIT 1) n",
    4,
    {CHAROID, OIDARRAYOID, OIDARRAYOID, XID8OID},
    nullptr};

Statement next_statement = {"SELECT j.xid, j.uuid, j.attempt, j.runs FROM whisperer.job j WHERE j.kind = $1 "
                            "AND j.owner_oid = $2 AND j.xid >= $3"
                            " ORDER BY j.xid, j.uuid, j.attempt LIMIT $4 FOR UPDATE",
                            4,
                            {CHAROID, OIDOID, XID8OID, INT4OID},
                            nullptr};

Statement count_run_statement = {"UPDATE whisperer.job j SET runs = j.runs + " RUN_WEIGHT_TEXT
                                 " WHERE " JOB_KEY_MATCHES,
                                 job_key_arguments,
                                 {JOB_KEY_TYPES},
                                 nullptr};

Statement uncount_run_statement = {"UPDATE whisperer.job j SET runs = j.runs - " RUN_WEIGHT_TEXT
                                   " WHERE " JOB_KEY_MATCHES " AND j.runs >= " RUN_WEIGHT_TEXT,
                                   job_key_arguments,
                                   {JOB_KEY_TYPES},
                                   nullptr};

// Somebody may be making the call already.
Statement forgive_run_statement = {"UPDATE whisperer.job SET runs = runs - " RUN_WEIGHT_FORGIVEN_TEXT
                                   " WHERE ctid = ANY (ARRAY (SELECT j.ctid FROM whisperer.job j"
                                   " WHERE " JOB_KEY_MATCHES " AND j.runs = $6 FOR UPDATE SKIP LOCKED))",
                                   job_key_arguments + 1,
                                   {JOB_KEY_TYPES, INT4OID},
                                   nullptr};

// The function is none of the arguments' when it is not known any more. Gives whether this is news.
Statement fail_statement = {
    "WITH j AS (DELETE FROM whisperer.job j WHERE " JOB_KEY_MATCHES " RETURNING j.subscription_id, j.kind),"
    " written AS (INSERT INTO whisperer.function_failure (subscription_id, uuid, attempt, kind, function, "
    "sqlstate, error,"
    "  occurred) SELECT j.subscription_id, $4, $5, j.kind, $6, $7, $8, $9 FROM j RETURNING subscription_id)"
    " SELECT w.subscription_id, last.sqlstate IS NOT DISTINCT FROM $7 AND last.function IS NOT DISTINCT FROM "
    "$6"
    " FROM written w LEFT JOIN LATERAL (SELECT f.sqlstate, f.function FROM whisperer.function_failure f"
    "  WHERE f.subscription_id = w.subscription_id ORDER BY f.occurred DESC LIMIT 1) last ON true",
    9,
    {JOB_KEY_TYPES, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

Statement any_statement = {
    "SELECT EXISTS (SELECT FROM whisperer.job WHERE kind = $1)", 1, {CHAROID}, nullptr};

Datum kind_datum(JobKind kind) {
    return CharGetDatum(job_letter(kind));
}

OwnerQueue *find_queue(const OwnerQueues *queues, Oid owner) {
    for (int i = 0; i < queues->count; i++)
        if (queues->list[i].owner == owner)
            return &queues->list[i];
    return nullptr;
}

void insert_queue(OwnerQueues *queues, Oid owner) {
    if (queues->count == queues->capacity) {
        queues->capacity = Max(2 * queues->capacity, 16);
        size_t size = sizeof(OwnerQueue) * (size_t)queues->capacity;
        queues->list = (OwnerQueue *)(queues->list == nullptr ? MemoryContextAlloc(TopMemoryContext, size)
                                                              : repalloc(queues->list, size));
    }
    int place = queues->count++;
    for (; place > 0 && queues->list[place - 1].owner > owner; place--)
        queues->list[place] = queues->list[place - 1];
    queues->list[place] = {owner, queues->mark, 1, 0, true};
}

void look_at_known(OwnerQueues *queues) {
    Datum *owners = (Datum *)palloc(sizeof(Datum) * (size_t)(queues->count + 1));
    Datum *marks = (Datum *)palloc(sizeof(Datum) * (size_t)(queues->count + 1));
    for (int i = 0; i < queues->count; i++) {
        queues->list[i].has_work = false;
        owners[i] = ObjectIdGetDatum(queues->list[i].owner);
        marks[i] = UInt64GetDatum(queues->list[i].mark);
    }
    Datum arguments[3] = {kind_datum(queues->kind), array_of(owners, nullptr, (size_t)queues->count, OIDOID),
                          array_of(marks, nullptr, (size_t)queues->count, XID8OID)};
    uint64 rows = internal_execute(&known_statement, arguments);
    for (uint64 row = 0; row < rows; row++) {
        bool is_null;
        find_queue(queues, DatumGetObjectId(spi_value(row, 1, &is_null)))->has_work = true;
    }
}

// False: no more unknown ones.
bool look_for_unknown(OwnerQueues *queues) {
    int gaps = queues->count + 1;
    Datum *lows = (Datum *)palloc(sizeof(Datum) * (size_t)gaps);
    Datum *highs = (Datum *)palloc(sizeof(Datum) * (size_t)gaps);
    for (int i = 0; i < gaps; i++) {
        lows[i] = ObjectIdGetDatum(i == 0 ? InvalidOid : queues->list[i - 1].owner);
        highs[i] = ObjectIdGetDatum(i == queues->count ? OID_MAX : queues->list[i].owner);
    }
    Datum arguments[4] = {kind_datum(queues->kind), array_of(lows, nullptr, (size_t)gaps, OIDOID),
                          array_of(highs, nullptr, (size_t)gaps, OIDOID), UInt64GetDatum(queues->mark)};
    uint64 rows = internal_execute(&unknown_statement, arguments);
    for (uint64 row = 0; row < rows; row++) {
        bool is_null;
        insert_queue(queues, DatumGetObjectId(spi_value(row, 1, &is_null)));
    }
    return rows > 0;
}

void save_setting(const char *name, const char *value) {
    (void)set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

JobKey job_of(Oid owner, uint64 row, int *runs) {
    bool is_null;
    JobKey job;
    job.owner = owner;
    job.xid = U64FromFullTransactionId(DatumGetFullTransactionId(spi_value(row, 1, &is_null)));
    memcpy(job.uuid, DatumGetUUIDP(spi_value(row, 2, &is_null))->data, UUID_LEN);
    job.attempt = DatumGetInt32(spi_value(row, 3, &is_null));
    *runs = DatumGetInt16(spi_value(row, 4, &is_null));
    return job;
}

void change(Statement *statement, JobKind kind, const JobKey &job) {
    Datum key[job_key_arguments];
    job_key_datums(kind, job, key);
    internal_execute(statement, key);
}

} // namespace

int queue_plans_begin() {
    int level = NewGUCNestLevel();
    for (const char *name :
         {"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_material"})
        save_setting(name, "off");
    save_setting("plan_cache_mode", "force_generic_plan");
    return level;
}

void queue_plans_end(int level) {
    AtEOXact_GUC(false, level);
}

void job_key_datums(JobKind kind, const JobKey &job, Datum *arguments) {
    arguments[0] = kind_datum(kind);
    arguments[1] = ObjectIdGetDatum(job.owner);
    arguments[2] = UInt64GetDatum(job.xid);
    arguments[3] = PointerGetDatum(job.uuid);
    arguments[4] = Int32GetDatum(job.attempt);
}

bool queues_look(OwnerQueues *queues) {
    int level = queue_plans_begin();
    SnapshotXids now = current_snapshot_xids();
    look_at_known(queues);
    while (look_for_unknown(queues)) {
    }
    queue_plans_end(level);
    bool any = false;
    for (int i = 0; i < queues->count; i++) {
        OwnerQueue *queue = &queues->list[i];
        any = any || queue->has_work;
        if (!queue->has_work)
            queue->mark = Max(queue->mark, now.xmin);
    }
    queues->mark = now.xmin;
    return any;
}

void queues_forget_marks(OwnerQueues *queues) {
    queues->mark = 0;
    for (int i = 0; i < queues->count; i++)
        queues->list[i].mark = 0;
}

void queue_take(JobKind kind, OwnerQueue *queue, TakenJobs *taken) {
    int level = queue_plans_begin();
    SnapshotXids now = current_snapshot_xids();
    int limit = Min(queue->batch, most_jobs_at_once);
    Datum arguments[4] = {kind_datum(kind), ObjectIdGetDatum(queue->owner), UInt64GetDatum(queue->mark),
                          Int32GetDatum(limit)};
    uint64 rows = internal_execute(&next_statement, arguments);
    *taken = {};
    uint64 mark = rows < (uint64)limit ? now.xmin : UINT64_MAX;
    for (uint64 row = 0; row < rows; row++) {
        int runs;
        JobKey job = job_of(queue->owner, row, &runs);
        mark = row + 1 == (uint64)limit ? job.xid : mark;
        if (runs > 0 && row > 0) { // a suspect goes alone, in a turn of its own
            mark = job.xid;
            break;
        }
        taken->runs[taken->count] = runs + RUN_WEIGHT;
        taken->jobs[taken->count++] = job;
        taken->hopeless = runs >= most_weight;
        if (runs > 0) {
            mark = job.xid;
            break;
        }
    }
    for (int i = 0; i < taken->count; i++)
        change(&count_run_statement, kind, taken->jobs[i]);
    queue->mark = Min(mark, now.xmin);
    queue->has_work = taken->count > 0;
    queue_plans_end(level);
}

void queue_give_back(JobKind kind, OwnerQueue *queue, const JobKey &job) {
    int level = queue_plans_begin();
    change(&uncount_run_statement, kind, job);
    queue_plans_end(level);
    queue->mark = Min(queue->mark, job.xid);
    queue->has_work = true;
}

void queue_forgive(JobKind kind, const JobKey &job, int runs) {
    int level = queue_plans_begin();
    Datum arguments[job_key_arguments + 1];
    job_key_datums(kind, job, arguments);
    arguments[job_key_arguments] = Int32GetDatum(runs);
    internal_execute(&forgive_run_statement, arguments);
    queue_plans_end(level);
}

void queue_fail(JobKind kind, const JobKey &job, const JobFailure &failure) {
    int level = queue_plans_begin();
    Datum arguments[job_key_arguments + 4];
    job_key_datums(kind, job, arguments);
    char nulls[] = "         ";
    nulls[5] = failure.function == nullptr ? 'n' : ' ';
    arguments[5] = failure.function == nullptr ? (Datum)0 : CStringGetTextDatum(failure.function);
    arguments[6] = CStringGetTextDatum(unpack_sql_state(failure.sqlstate));
    arguments[7] = PointerGetDatum(cstring_to_text_with_len(
        failure.error, pg_mbcliplen(failure.error, (int)strlen(failure.error), longest_error)));
    arguments[8] = TimestampTzGetDatum(GetCurrentTimestamp());
    uint64 rows = internal_execute(&fail_statement, arguments, nulls);
    if (rows > 0) {
        bool is_null;
        int64 subscription = DatumGetInt64(spi_value(0, 1, &is_null));
        if (!DatumGetBool(spi_value(0, 2, &is_null)))
            ereport(LOG, errcode(failure.sqlstate),
                    errmsg("whisperer: a %s of subscription " INT64_FORMAT " went wrong: %s",
                           kind == JobKind::callback ? "callback" : "countdown", subscription, failure.error),
                    failure.function == nullptr ? 0 : errdetail("The function is %s.", failure.function),
                    errhint("whisperer.function_failures lists all of them; the same again is not logged."));
    }
    queue_plans_end(level);
}

void jobs_announce() {
    for (JobKind kind : {JobKind::callback, JobKind::countdown}) {
        bool is_null;
        Datum arguments[1] = {kind_datum(kind)};
        internal_execute(&any_statement, arguments);
        if (DatumGetBool(spi_value(0, 1, &is_null)))
            roster_jobs_written(kind);
    }
}

} // namespace whisperer::pg
