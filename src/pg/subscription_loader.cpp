// From whisperer.subscription to the outbox: what changed since the last look, found by the transactions that
// changed it.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/cancel.hpp"
#include "pg/config_fields.hpp"
#include "pg/countdown_config.hpp"
#include "pg/delivery_worker.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/settings.hpp"
#include "pg/transcode.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
}

namespace whisperer::pg {

namespace {

Statement load_statement = {
    "SELECT s.id, s.target_url, s.additional_headers, s.config, s.retry_countdown_config, s.is_active,"
    " s.ended_date IS NOT NULL, s.owner_oid, s.owner_name, s.owner_system, s.owner_dropped, c.secret_key, "
    "c.auth,"
    " t.consecutive_failures, t.paused_until, t.last_status, t.last_error"
    " FROM whisperer.subscription s"
    " LEFT JOIN whisperer.subscription_secret c ON c.subscription_id = s.id"
    " LEFT JOIN whisperer.subscription_state t ON t.subscription_id = s.id"
    " WHERE s.change_xid >= $1 AND s.change_xid < $2",
    2,
    {XID8OID, XID8OID},
    nullptr};

enum Column {
    COLUMN_ID = 1,
    COLUMN_URL,
    COLUMN_HEADERS,
    COLUMN_CONFIG,
    COLUMN_COUNTDOWN,
    COLUMN_ACTIVE,
    COLUMN_ENDED,
    COLUMN_OWNER_OID,
    COLUMN_OWNER_NAME,
    COLUMN_OWNER_SYSTEM,
    COLUMN_OWNER_DROPPED,
    COLUMN_SECRET,
    COLUMN_AUTH,
    COLUMN_FAILURES,
    COLUMN_PAUSED,
    COLUMN_STATUS,
    COLUMN_ERROR
};

Statement home_statement = {"SELECT pg_catalog.count(*), pg_catalog.bool_and(system_identifier = $1 AND "
                            "database_oid = $2) FROM whisperer.home",
                            2,
                            {INT8OID, OIDOID},
                            nullptr};

Statement stragglers_statement = {
    "SELECT s.id FROM whisperer.subscription s WHERE s.ended_date IS NOT NULL"
    " AND (EXISTS (SELECT FROM whisperer.delivery d WHERE d.subscription_id = s.id AND"
    " d.due IS NULL) OR EXISTS (SELECT FROM whisperer.delivery d WHERE"
    " d.subscription_id = s.id AND d.due IS NOT NULL)) LIMIT 100",
    0,
    {},
    nullptr};

// Stragglers cancelled in one transaction at most.
constexpr int64 straggler_batch = 10000;

JsonbValue *key_of(Jsonb *object, const char *key) {
    return getKeyJsonValueFromContainer(&object->root, key, (int)strlen(key), nullptr);
}

char *string_of(const JsonbValue *value) {
    return pnstrdup(value->val.string.val, value->val.string.len);
}

int integer_key(Jsonb *config, const char *key, int otherwise) {
    JsonbValue *value = key_of(config, key);
    if (value == nullptr || value->type != jbvNumeric)
        return otherwise;
    return DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(value->val.numeric)));
}

// Additional headers as lines "Name: value".
core::Slice *header_lines(Jsonb *headers, size_t *count) {
    core::Slice *lines = (core::Slice *)palloc(sizeof(core::Slice) * (JB_ROOT_COUNT(headers) + 1));
    *count = 0;
    JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
    JsonbValue value;
    char *name = nullptr;
    for (JsonbIteratorToken token; (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE;) {
        if (token == WJB_KEY)
            name = string_of(&value);
        else if (token == WJB_VALUE && value.type == jbvString) {
            char *line = psprintf("%s: %s", name, string_of(&value));
            lines[(*count)++] = to_utf8(line, (int)strlen(line));
        }
    }
    return lines;
}

// The Authorization header's value that config.auth stands for.
core::Slice authorization_of(Jsonb *auth) {
    JsonbValue *type = key_of(auth, "auth_type");
    const char *kind = type != nullptr && type->type == jbvString ? string_of(type) : "";
    if (strcmp(kind, "bearer") == 0) {
        char *text = psprintf("Bearer %s", string_of(key_of(auth, "token")));
        return to_utf8(text, (int)strlen(text));
    }
    if (strcmp(kind, "basic") == 0) {
        char *pair =
            psprintf("%s:%s", string_of(key_of(auth, "username")), string_of(key_of(auth, "password")));
        core::Slice bytes = to_utf8(pair, (int)strlen(pair));
        int room = pg_b64_enc_len((int)bytes.len);
        char *text = (char *)palloc((size_t)room + sizeof("Basic "));
        memcpy(text, "Basic ", 6);
        int written = pg_b64_encode(bytes.data, (int)bytes.len, text + 6, room);
        return core::Slice{text, 6 + (size_t)written};
    }
    return core::Slice{nullptr, 0};
}

bool owner_is_there(uint64 row) {
    bool is_null;
    if (DatumGetBool(spi_value(row, COLUMN_OWNER_DROPPED, &is_null)))
        return false;
    char *name = TextDatumGetCString(spi_value(row, COLUMN_OWNER_NAME, &is_null));
    return OidIsValid(owner_role(DatumGetObjectId(spi_value(row, COLUMN_OWNER_OID, &is_null)), name,
                                 DatumGetInt64(spi_value(row, COLUMN_OWNER_SYSTEM, &is_null))));
}

void set_config(core::SubscriptionFields *fields, Jsonb *config) {
    RequestTimeout timeout = setting_request_timeout();
    config_request_timeout(config, &timeout);
    fields->connect_timeout = (core::Micros)(timeout.connect_seconds * 1e6);
    fields->response_timeout = (core::Micros)(timeout.response_seconds * 1e6);
    fields->max_attempts = integer_key(config, "max_attempts", setting_max_attempts);
    fields->max_in_flight = integer_key(config, "max_in_flight", INT_MAX);
}

bool put_row(DeliveryWorker *worker, uint64 row) {
    bool is_null;
    core::SubscriptionFields fields = {};
    fields.id = DatumGetInt64(spi_value(row, COLUMN_ID, &is_null));
    if (subscription_shard(fields.id, worker->self->shards) != worker->self->shard)
        return true;
    if (DatumGetBool(spi_value(row, COLUMN_ENDED, &is_null))) {
        worker->box->remove_subscription(fields.id);
        return true;
    }
    fields.bucket = (int)subscription_bit(fields.id);
    fields.url = datum_to_utf8(spi_value(row, COLUMN_URL, &is_null));
    fields.header_lines =
        header_lines(DatumGetJsonbP(spi_value(row, COLUMN_HEADERS, &is_null)), &fields.header_count);
    set_config(&fields, DatumGetJsonbP(spi_value(row, COLUMN_CONFIG, &is_null)));
    Datum secret = spi_value(row, COLUMN_SECRET, &is_null);
    fields.has_secret = !is_null;
    if (!is_null)
        fields.secret = datum_to_utf8(secret);
    Datum auth = spi_value(row, COLUMN_AUTH, &is_null);
    if (!is_null)
        fields.authorization = authorization_of(DatumGetJsonbP(auth));
    Datum countdown = spi_value(row, COLUMN_COUNTDOWN, &is_null);
    if (!countdown_from_jsonb(is_null ? nullptr : DatumGetJsonbP(countdown), &fields.countdown, nullptr))
        fields.countdown = core::default_countdown();
    fields.sendable = DatumGetBool(spi_value(row, COLUMN_ACTIVE, &is_null)) && owner_is_there(row);
    if (!worker->box->put_subscription(fields))
        return false;

    Datum failures = spi_value(row, COLUMN_FAILURES, &is_null);
    if (worker->refetch_states && !is_null) {
        core::ReceiverState state = {fields.id, DatumGetInt32(failures), 0, 0, core::Slice{nullptr, 0}};
        Datum paused = spi_value(row, COLUMN_PAUSED, &is_null);
        state.paused_until = is_null ? 0 : to_wall(DatumGetTimestampTz(paused));
        Datum status = spi_value(row, COLUMN_STATUS, &is_null);
        state.last_status = is_null ? 0 : DatumGetInt32(status);
        Datum error = spi_value(row, COLUMN_ERROR, &is_null);
        if (!is_null)
            state.last_error = datum_to_utf8(error);
        worker->box->set_receiver_state(state);
    }
    return true;
}

// Held: there is a row of another cluster or database (a copy), or none at all (never used, or a restore
// under way whose row has not come yet). Says so once.
void refresh_held(DeliveryWorker *worker) {
    bool is_null;
    Datum arguments[2] = {Int64GetDatum(home_system()), ObjectIdGetDatum(MyDatabaseId)};
    internal_execute(&home_statement, arguments);
    int64 rows = DatumGetInt64(spi_value(0, 1, &is_null));
    bool at_home = DatumGetBool(spi_value(0, 2, &is_null)) && !is_null;
    bool is_copy = rows > 0 && !at_home;
    if (is_copy && !worker->told_copy)
        ereport(
            LOG,
            errmsg("whisperer holds database \"%s\": it is a copy of another", worker->self->database_name),
            errdetail("It was restored, cloned or upgraded from a database in which whisperer was in use. "
                      "Nothing is sent."),
            errhint("Call whisperer.resume() in it if this database is to send."));
    if (worker->told_copy && !is_copy)
        ereport(LOG, errmsg("whisperer resumes database \"%s\"", worker->self->database_name));
    worker->told_copy = is_copy;
    worker->held = !at_home;
}

} // namespace

SnapshotXids current_snapshot_xids() {
    Snapshot snapshot = GetActiveSnapshot();
    FullTransactionId next = ReadNextFullTransactionId();
    // Every xid of a snapshot is within half the number space of the next one.
    auto widen = [next](TransactionId xid) {
        uint32 epoch = EpochFromFullTransactionId(next);
        if (xid > XidFromFullTransactionId(next))
            epoch--;
        return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
    };
    SnapshotXids result = {widen(snapshot->xmin), widen(snapshot->xmax), nullptr, snapshot->xcnt};
    result.running = (uint64 *)palloc(sizeof(uint64) * Max(snapshot->xcnt, 1u));
    for (uint32 i = 0; i < snapshot->xcnt; i++)
        result.running[i] = widen(snapshot->xip[i]);
    return result;
}

bool load_subscriptions(DeliveryWorker *worker) {
    refresh_held(worker);
    if (worker->owners_changed) {
        worker->owners_changed = false;
        home_refresh_owners();
        worker->subscription_changes->reset(); // owners are not in change_xid: look at all
    }
    SnapshotXids now = current_snapshot_xids();
    if (!worker->subscription_changes->advance(now.xmin, now.xmax, now.running, now.count))
        return false;
    for (size_t i = 0; i < worker->subscription_changes->range_count(); i++) {
        core::XidRange range = worker->subscription_changes->range(i);
        Datum arguments[2] = {UInt64GetDatum(range.lo), UInt64GetDatum(range.hi)};
        uint64 rows = internal_execute(&load_statement, arguments);
        for (uint64 row = 0; row < rows; row++)
            if (!put_row(worker, row))
                return false;
    }
    worker->subscription_changes->done();
    worker->refetch_states = false;
    return true;
}

void cancel_stragglers() {
    uint64 rows = internal_execute(&stragglers_statement, nullptr);
    SPITupleTable *found = SPI_tuptable;
    for (uint64 row = 0; row < rows; row++) {
        bool is_null;
        Datum id = SPI_getbinval(found->vals[row], found->tupdesc, 1, &is_null);
        cancel_pending_of(DatumGetInt64(id), Locked::skip, straggler_batch);
    }
}

} // namespace whisperer::pg
