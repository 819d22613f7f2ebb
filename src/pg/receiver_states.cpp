#include "pg/prelude.hpp"

#include "pg/delivery_worker.hpp"
#include "pg/internal_sql.hpp"
#include "pg/receiver_states.hpp"
#include "pg/roster.hpp"
#include "pg/transcode.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

// States saved by one transaction of the worker.
constexpr size_t states_at_once = 500;

Statement state_statement = {
    "INSERT INTO whisperer.subscription_state AS t (subscription_id, consecutive_failures, paused_until, "
    "last_status,"
    " last_error, modified_date) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (subscription_id) DO UPDATE SET"
    " consecutive_failures = excluded.consecutive_failures, paused_until = excluded.paused_until,"
    " last_status = excluded.last_status, last_error = excluded.last_error, modified_date = "
    "excluded.modified_date",
    6,
    {INT8OID, INT4OID, TIMESTAMPTZOID, INT4OID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

Statement deactivate_statement = {
    "UPDATE whisperer.subscription SET is_active = false, inactive_reason = $2, modified_date = $3,"
    " change_xid = pg_catalog.pg_current_xact_id() WHERE id = (SELECT s.id FROM whisperer.subscription s "
    "WHERE s.id = $1"
    " FOR UPDATE SKIP LOCKED)",
    3,
    {INT8OID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

Statement report_statement = {"INSERT INTO whisperer.receiver_report (subscription_id, consecutive_failures, "
                              "paused_until, last_status, last_error,"
                              " reported, gone) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                              7,
                              {INT8OID, INT4OID, TIMESTAMPTZOID, INT4OID, TEXTOID, TIMESTAMPTZOID, BOOLOID},
                              nullptr};

Statement reported_statement = {
    "SELECT DISTINCT subscription_id FROM whisperer.receiver_report", 0, {}, nullptr};

Statement take_statement = {
    "WITH taken AS (DELETE FROM whisperer.receiver_report WHERE subscription_id = ANY ($1) RETURNING *)"
    " SELECT subscription_id, consecutive_failures, paused_until, last_status, last_error, gone FROM taken"
    " ORDER BY reported",
    1,
    {INT8ARRAYOID},
    nullptr};

// States given out by the outbox and written in the transaction under way: given back if it fails.
struct Saving {
    size_t count;
    struct {
        int64 subscription;
        bool deactivate;
    } states[states_at_once];
};
Saving saving;

// Of both statements the first six arguments.
void state_arguments(const core::ReceiverState &state, Datum *arguments, char *nulls) {
    nulls[2] = state.paused_until == 0 ? 'n' : ' ';
    nulls[3] = state.last_status == 0 ? 'n' : ' ';
    nulls[4] = state.last_error.empty() ? 'n' : ' ';
    arguments[0] = Int64GetDatum(state.subscription);
    arguments[1] = Int32GetDatum(state.consecutive_failures);
    arguments[2] = TimestampTzGetDatum(to_timestamp(state.paused_until));
    arguments[3] = Int32GetDatum(state.last_status);
    arguments[4] = state.last_error.empty() ? (Datum)0 : CStringGetTextDatum(error_text(state.last_error));
    arguments[5] = TimestampTzGetDatum(GetCurrentTimestamp());
}

// False: somebody has the subscription's row locked.
bool deactivate_subscription(int64 id) {
    Datum arguments[3] = {
        Int64GetDatum(id),
        CStringGetTextDatum("the receiver answered 410 Gone; whisperer.update_subscription(id, "
                            "'{\"is_active\": true}') resumes"),
        TimestampTzGetDatum(GetCurrentTimestamp())};
    return internal_execute(&deactivate_statement, arguments) > 0;
}

void apply_report(core::Outbox *box, uint64 row) {
    bool is_null;
    core::ReceiverState state = {};
    state.subscription = DatumGetInt64(spi_value(row, 1, &is_null));
    state.consecutive_failures = DatumGetInt32(spi_value(row, 2, &is_null));
    Datum paused = spi_value(row, 3, &is_null);
    state.paused_until = is_null ? 0 : to_wall(DatumGetTimestampTz(paused));
    Datum status = spi_value(row, 4, &is_null);
    state.last_status = is_null ? 0 : DatumGetInt32(status);
    Datum error = spi_value(row, 5, &is_null);
    if (!is_null)
        state.last_error = datum_to_utf8(error);
    box->learn_elsewhere(state, DatumGetBool(spi_value(row, 6, &is_null)));
}

} // namespace

void save_receiver_states(core::Outbox *box) {
    core::ReceiverState state;
    bool deactivate;
    core::Micros now = monotonic_micros();
    saving.count = 0;
    while (saving.count < states_at_once && box->next_changed_state(&state, &deactivate, now)) {
        saving.states[saving.count++] = {state.subscription, deactivate};
        Datum arguments[6];
        char nulls[] = "      ";
        state_arguments(state, arguments, nulls);
        internal_execute(&state_statement, arguments, nulls);
        if (deactivate && !deactivate_subscription(state.subscription))
            box->state_not_saved(state.subscription, true); // again later
    }
}

void receiver_states_saved() {
    saving.count = 0;
}

void receiver_states_not_saved(core::Outbox *box) {
    for (size_t i = 0; i < saving.count; i++)
        box->state_not_saved(saving.states[i].subscription, saving.states[i].deactivate);
    saving.count = 0;
}

void report_receiver_states(core::Outbox *box) {
    core::ReceiverState state;
    bool deactivate;
    bool any = false;
    while (box->next_changed_state(&state, &deactivate, core::Outbox::at_once)) {
        Datum arguments[7];
        char nulls[] = "       ";
        state_arguments(state, arguments, nulls);
        // Locked by another session: then the worker does it.
        arguments[6] = BoolGetDatum(deactivate && !deactivate_subscription(state.subscription));
        internal_execute(&report_statement, arguments, nulls);
        any = true;
    }
    if (any)
        wake_subscriptions();
}

void take_receiver_reports(DeliveryWorker *worker) {
    uint64 rows = internal_execute(&reported_statement, nullptr);
    if (rows == 0)
        return;
    Datum *mine = (Datum *)palloc(sizeof(Datum) * rows);
    int count = 0;
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        Datum id = spi_value(i, 1, &is_null);
        if (subscription_shard(DatumGetInt64(id), worker->self->shards) == worker->self->shard)
            mine[count++] = id;
    }
    if (count == 0)
        return;
    Datum arguments[1] = {array_of(mine, nullptr, (size_t)count, INT8OID)};
    rows = internal_execute(&take_statement, arguments);
    for (uint64 i = 0; i < rows; i++)
        apply_report(worker->box, i);
}

} // namespace whisperer::pg
