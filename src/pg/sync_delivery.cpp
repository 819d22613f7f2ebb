#include "pg/prelude.hpp"

#include "pg/claims.hpp"
#include "pg/compat.hpp"
#include "pg/countdown_config.hpp"
#include "pg/delivery_worker.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/receiver_states.hpp"
#include "pg/recorder.hpp"
#include "pg/sender.hpp"
#include "pg/sending_row.hpp"
#include "pg/settings.hpp"
#include "pg/sync_delivery.hpp"
#include "pg/transcode.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

namespace {

// Deliveries taken into memory by one query.
constexpr int load_batch = 500;
// Connections that a session keeps open between calls.
constexpr size_t kept_connections = 16;

Statement load_statement = {
    "SELECT " SENDING_COLUMNS ", d.uuid, d.attempts, d.event_type,"
    " CASE WHEN pg_catalog.octet_length(b.content) <= 65536 THEN b.content END, d.body IS NOT NULL,"
    " COALESCE(pg_catalog.octet_length(b.content) > 65536, true)"
    " FROM whisperer.delivery d JOIN whisperer.subscription s ON s.id = d.subscription_id" SENDING_JOINS
    " LEFT JOIN whisperer.event e ON e.uuid = d.event_uuid"
    " CROSS JOIN LATERAL (SELECT COALESCE(d.body, d.payload, e.payload) AS content) b"
    " WHERE d.uuid = ANY ($1)",
    1,
    {UUIDARRAYOID},
    nullptr};

enum Column {
    COLUMN_UUID = SENDING_NEXT,
    COLUMN_ATTEMPTS,
    COLUMN_EVENT_TYPE,
    COLUMN_CONTENT,
    COLUMN_WHOLE_BODY,
    COLUMN_MISSING
};

// This session's; both or neither. After an ERROR they are thrown away with all that was in flight.
struct Sender {
    core::Outbox *box;
    WaitEventSet *events;
    bool busy;
};
Sender sender;

// A session keeps no journal: if the server crashes, its transaction has never been.
int took_off(void *, const core::Uuid &, int64_t, bool, const core::CrashCount &) {
    return -1;
}
void landed(void *, int) {}

[[noreturn]] void out_of_memory() {
    ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("whisperer could not send: out of memory"),
            errhint("Memory may be short, or file descriptors. The delivery can be left to the background: "
                    "_async => true."));
    pg_unreachable();
}

core::EngineSettings engine_settings() {
    core::EngineSettings settings = sender_engine_settings();
    settings.max_connections = Min(settings.max_connections, kept_connections);
    return settings;
}

void close_sender() {
    delete sender.box; // ends what is in flight; never blocks
    sender.box = nullptr;
    if (sender.events != nullptr)
        FreeWaitEventSet(sender.events);
    sender.events = nullptr;
}

void open_sender() {
    if (sender.box == nullptr) {
        core::HttpEngine *engine = core::HttpEngine::create(engine_settings(), monotonic_micros());
        if (engine == nullptr)
            out_of_memory();
        core::FlightRecorder recorder = {nullptr, took_off, landed};
        sender.box =
            core::Outbox::create(engine, sender_limits(), process_random(), recorder, sender_user_agent());
        if (sender.box == nullptr)
            out_of_memory();
    } else if (!sender.box->engine()->configure(engine_settings())) // at once, for what is started next
        out_of_memory();
    sender.box->set_limits(sender_limits());
    if (sender.events != nullptr)
        return;
    sender.events = compat_create_wait_event_set(3);
    AddWaitEventToSet(sender.events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
    if (IsUnderPostmaster) // there is none in single-user mode
        AddWaitEventToSet(sender.events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
    AddWaitEventToSet(sender.events, WL_SOCKET_READABLE, sender.box->engine()->wait_fd(), nullptr, nullptr);
}

// A row of the last result goes into the outbox.
void take_row(uint64 row) {
    core::Outbox *box = sender.box;
    int64 subscription = sending_subscription(row);
    if (!box->put_subscription(sending_fields(row)))
        out_of_memory();
    core::ReceiverState state;
    if (sending_state(row, &state))
        box->set_receiver_state(state);
    if (!box->accepts(subscription, wall_clock()))
        return;
    bool is_null;
    core::DeliveryRow delivery = {};
    delivery.uuid = spi_uuid(row, COLUMN_UUID);
    delivery.attempts = DatumGetInt32(spi_value(row, COLUMN_ATTEMPTS, &is_null));
    delivery.event_type = datum_to_utf8(spi_value(row, COLUMN_EVENT_TYPE, &is_null));
    Datum content = spi_value(row, COLUMN_CONTENT, &is_null);
    if (!is_null)
        delivery.payload = datum_to_utf8(content);
    delivery.whole_body = DatumGetBool(spi_value(row, COLUMN_WHOLE_BODY, &is_null));
    delivery.body_missing = DatumGetBool(spi_value(row, COLUMN_MISSING, &is_null));
    if (!box->add_delivery(subscription, delivery))
        out_of_memory();
}

void load(const pg_uuid_t *uuids, int count) {
    InternalSql sql;
    internal_begin(&sql);
    Datum *values = (Datum *)palloc(sizeof(Datum) * (size_t)count);
    for (int i = 0; i < count; i++)
        values[i] = UUIDPGetDatum(&uuids[i]);
    Datum arguments[1] = {array_of(values, nullptr, (size_t)count, UUIDOID)};
    uint64 rows = internal_execute(&load_statement, arguments);
    for (uint64 row = 0; row < rows; row++)
        take_row(row);
    internal_end(&sql);
}

void load_bodies() {
    InternalSql sql;
    internal_begin(&sql);
    read_bodies(sender.box);
    internal_end(&sql);
}

void record() {
    InternalSql sql;
    internal_begin(&sql);
    RecordedCounts counts = record_in_session(sender.box);
    report_receiver_states(sender.box);
    internal_end(&sql);
    wake_results(counts.attempts, counts.delivered, counts.failed);
}

void wait_for_something() {
    static uint32 wait_event = 0;
    WaitEvent occurred[3];
    long timeout = sender.box->timeout_ms(monotonic_micros(), wall_clock());
    int count = WaitEventSetWait(sender.events, timeout, occurred, lengthof(occurred),
                                 compat_wait_event(&wait_event, "WhispererSynchronousDelivery"));
    for (int i = 0; i < count; i++)
        if (occurred[i].events & WL_LATCH_SET)
            ResetLatch(MyLatch);
}

// Until everything in the outbox is sent and recorded.
void drive() {
    core::Outbox *box = sender.box;
    while (box->deliveries() > 0) {
        CHECK_FOR_INTERRUPTS();
        box->start(monotonic_micros(), wall_clock());
        if (box->wants_bodies()) {
            load_bodies();
            continue;
        }
        if (box->in_flight() > 0)
            wait_for_something();
        else if (box->result_count() == 0)
            out_of_memory(); // something is unsent, and its request could not be made
        CHECK_FOR_INTERRUPTS();
        box->step(monotonic_micros(), wall_clock());
        size_t results = box->result_count();
        if (results > 0 && (box->in_flight() == 0 || 2 * results >= (size_t)sender_max_in_flight()))
            record();
    }
}

} // namespace

void check_may_deliver_now() {
    if (!setting_enabled)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("nothing is sent: whisperer.enabled is off"),
                errhint("Leave out _async => false: the delivery waits until a superuser sets it to on."));
    InternalSql sql;
    internal_begin(&sql);
    bool is_copy = home_is_copy();
    internal_end(&sql);
    if (is_copy)
        ereport(
            ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("nothing is sent: this database is a copy of another"),
            errdetail("It was restored, cloned or upgraded from a database in which whisperer was in use."),
            errhint("Call whisperer.resume() in it if this database is to send."));
}

void deliver_now(const pg_uuid_t *uuids, int count) {
    if (count == 0)
        return;
    if (sender.busy)
        elog(ERROR, "whisperer is sending in this session already");
    sender.busy = true;
    PG_TRY();
    {
        open_sender();
        for (int i = 0; i < count; i += load_batch) {
            load(uuids + i, Min(count - i, load_batch));
            drive();
        }
    }
    PG_CATCH();
    {
        close_sender();
        sender.busy = false;
        PG_RE_THROW();
    }
    PG_END_TRY();
    sender.busy = false;
}

} // namespace whisperer::pg
