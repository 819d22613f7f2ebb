#include "pg/prelude.hpp"

#include "pg/internal_sql.hpp"
#include "pg/job_writer.hpp"
#include "pg/transcode.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

enum Column {
    KIND,
    SUBSCRIPTION,
    UUID,
    ATTEMPT,
    DELIVERED,
    STATUS,
    HEADERS,
    CONTENT,
    ERROR_TEXT,
    ELAPSED,
    columns
};

constexpr Oid column_types[columns] = {CHAROID, INT8OID, UUIDOID, INT4OID, BOOLOID,
                                       INT4OID, TEXTOID, TEXTOID, TEXTOID, INT8OID};

// The owner is who owns the subscription now; later the job says only in which queue it stands.
Statement insert_statement = {
    "INSERT INTO whisperer.job (kind, owner_oid, xid, uuid, attempt, subscription_id, written, delivered, "
    "status, headers,"
    " content, error, elapsed)"
    " SELECT r.kind, s.owner_oid, pg_catalog.pg_current_xact_id(), r.uuid, r.attempt, r.subscription_id, "
    "$11, r.delivered,"
    " r.status, r.headers, r.content, r.error, r.elapsed"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS r (kind, subscription_id, uuid, attempt, "
    "delivered, status,"
    " headers, content, error, elapsed) JOIN whisperer.subscription s ON s.id = r.subscription_id",
    11,
    {CHARARRAYOID, INT8ARRAYOID, UUIDARRAYOID, INT4ARRAYOID, BOOLARRAYOID, INT4ARRAYOID, TEXTARRAYOID,
     TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID},
    nullptr};

} // namespace

struct JobBatch {
    size_t capacity;
    int count;
    bool kinds[job_kinds];
    Datum *values[columns];
    bool *nulls[columns];
};

JobBatch *jobs_begin(size_t capacity) {
    JobBatch *batch = (JobBatch *)palloc0(sizeof(JobBatch));
    batch->capacity = capacity;
    for (int column = 0; column < columns; column++) {
        batch->values[column] = (Datum *)palloc(sizeof(Datum) * capacity);
        batch->nulls[column] = (bool *)palloc0(sizeof(bool) * capacity);
    }
    return batch;
}

void jobs_add(JobBatch *batch, JobKind kind, const core::AttemptResult &result) {
    Assert((size_t)batch->count < batch->capacity);
    int i = batch->count++;
    batch->kinds[(int)kind] = true;
    batch->values[KIND][i] = CharGetDatum(job_letter(kind));
    batch->values[SUBSCRIPTION][i] = Int64GetDatum(result.subscription);
    void *uuid = palloc(UUID_LEN);
    memcpy(uuid, result.uuid.bytes, UUID_LEN);
    batch->values[UUID][i] = PointerGetDatum(uuid);
    batch->values[ATTEMPT][i] = Int32GetDatum(result.attempts);
    bool callback = kind == JobKind::callback;
    for (int column = DELIVERED; column < columns; column++)
        batch->nulls[column][i] = !callback;
    if (!callback)
        return;
    batch->values[DELIVERED][i] = BoolGetDatum(result.outcome == core::Outcome::delivered);
    bool answered = result.status != 0;
    batch->nulls[STATUS][i] = batch->nulls[HEADERS][i] = batch->nulls[CONTENT][i] = !answered;
    if (answered) {
        batch->values[STATUS][i] = Int32GetDatum(result.status);
        batch->values[HEADERS][i] = CStringGetTextDatum(headers_text(result.headers));
        batch->values[CONTENT][i] = CStringGetTextDatum(response_text(result.body, result.body_truncated));
    }
    batch->nulls[ERROR_TEXT][i] = result.error.empty();
    if (!result.error.empty())
        batch->values[ERROR_TEXT][i] = CStringGetTextDatum(error_text(result.error));
    batch->values[ELAPSED][i] = Int64GetDatum(result.elapsed);
}

void jobs_write(const JobBatch *batch) {
    if (batch->count == 0)
        return;
    Datum arguments[columns + 1];
    for (int column = 0; column < columns; column++)
        arguments[column] =
            array_of(batch->values[column], batch->nulls[column], (size_t)batch->count, column_types[column]);
    arguments[columns] = TimestampTzGetDatum(GetCurrentTimestamp());
    internal_execute(&insert_statement, arguments);
    for (int kind = 0; kind < job_kinds; kind++)
        if (batch->kinds[kind])
            wake_jobs((JobKind)kind);
}

} // namespace whisperer::pg
