#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/error_capture.hpp"
#include "pg/errors.hpp"
#include "pg/home.hpp"
#include "pg/subscription_rows.hpp"

extern "C" {
#include "catalog/pg_type.h"
}

namespace whisperer::pg {

namespace {

[[noreturn]] void raise_no_subscription(int64 id) {
    ereport(ERROR, errcode(ERRCODE_WH_NO_SUBSCRIPTION),
            errmsg("subscription " INT64_FORMAT " does not exist", id),
            errhint("whisperer.subscriptions lists those there are."));
}

[[noreturn]] void raise_already_subscribed(const char *event_type, const char *target_url, int64 other) {
    ereport(
        ERROR, errcode(ERRCODE_WH_ALREADY_SUBSCRIBED),
        errmsg("\"%s\" is already subscribed to event type \"%s\"", target_url, event_type),
        other == 0 ? 0 : errdetail("Subscription " INT64_FORMAT " of the same owner does so.", other),
        errhint(
            "Change that one with whisperer.update_subscription(), or end it with whisperer.unsubscribe()."));
}

// The same owner's subscription that is in the way, if this transaction can see it. In a copy not resumed yet
// its owner has a number of another cluster, so the name counts; the unique index knows only numbers.
int64 find_duplicate(const Subscription &wanted) {
    static Statement find = {
        "SELECT id FROM whisperer.subscription WHERE ended_date IS NULL AND id <> $1 AND event_type = $2"
        " AND target_url = $3 AND CASE WHEN owner_system = $4 THEN owner_system = $5 AND owner_oid = $6"
        " ELSE NOT owner_dropped AND owner_name = $7 END LIMIT 1",
        7,
        {INT8OID, TEXTOID, TEXTOID, INT8OID, INT8OID, OIDOID, TEXTOID},
        nullptr};
    Arguments arguments = {};
    arguments.add(Int64GetDatum(wanted.id));
    arguments.add_text(wanted.event_type);
    arguments.add_text(wanted.target_url);
    arguments.add(Int64GetDatum(home_system()));
    arguments.add(Int64GetDatum(wanted.owner_system));
    arguments.add(ObjectIdGetDatum(wanted.owner_oid));
    arguments.add_text(wanted.owner_name);
    if (internal_execute(&find, arguments.values, arguments.nulls) == 0)
        return 0;
    bool is_null;
    return DatumGetInt64(spi_value(0, 1, &is_null));
}

struct Write {
    Statement *statement;
    Arguments *arguments;
};

void execute_write(void *argument) {
    Write *write = (Write *)argument;
    internal_execute(write->statement, write->arguments->values, write->arguments->nulls);
}

Subscription read_subscription(Statement *statement, Oid caller, int64 id) {
    Datum arguments[] = {Int64GetDatum(id)};
    if (internal_execute(statement, arguments) == 0)
        raise_no_subscription(id);
    bool is_null;
    Subscription found;
    found.id = id;
    found.owner_oid = DatumGetObjectId(spi_value(0, 1, &is_null));
    found.owner_name = TextDatumGetCString(spi_value(0, 2, &is_null));
    found.owner_system = DatumGetInt64(spi_value(0, 3, &is_null));
    bool dropped = DatumGetBool(spi_value(0, 4, &is_null));
    found.event_type = TextDatumGetCString(spi_value(0, 5, &is_null));
    found.target_url = TextDatumGetCString(spi_value(0, 6, &is_null));
    found.owner = dropped ? InvalidOid : owner_role(found.owner_oid, found.owner_name, found.owner_system);
    if (!access_manages(caller, found.owner))
        raise_no_subscription(id);
    return found;
}

} // namespace

Subscription lock_subscription(Oid caller, int64 id) {
    static Statement look = {
        "SELECT owner_oid, owner_name, owner_system, owner_dropped, event_type, target_url"
        " FROM whisperer.subscription WHERE id = $1 AND ended_date IS NULL",
        1,
        {INT8OID},
        nullptr};
    static Statement lock = {
        "SELECT owner_oid, owner_name, owner_system, owner_dropped, event_type, target_url"
        " FROM whisperer.subscription WHERE id = $1 AND ended_date IS NULL FOR UPDATE",
        1,
        {INT8OID},
        nullptr};
    (void)read_subscription(&look, caller, id);
    return read_subscription(&lock, caller, id);
}

// Writes a row that must be unique: first looked for, to say which other one there is; then left to the
// index, which also sees what other transactions do at this moment.
void write_unique_subscription(Statement *statement, Arguments *arguments, const Subscription &wanted) {
    int64 other = find_duplicate(wanted);
    if (other != 0)
        raise_already_subscribed(wanted.event_type, wanted.target_url, other);
    Write write = {statement, arguments};
    CapturedError error;
    if (capture_error(execute_write, &write, &error, ERRCODE_UNIQUE_VIOLATION))
        raise_already_subscribed(wanted.event_type, wanted.target_url, 0);
}

void write_subscription_secrets(int64 id, const SubscriptionInput &input) {
    static Statement keep = {"INSERT INTO whisperer.subscription_secret AS s (subscription_id, secret_key, "
                             "auth) VALUES ($1, $3, $5)"
                             " ON CONFLICT (subscription_id) DO UPDATE SET"
                             " secret_key = CASE WHEN $2 THEN excluded.secret_key ELSE s.secret_key END,"
                             " auth = CASE WHEN $4 THEN excluded.auth ELSE s.auth END",
                             5,
                             {INT8OID, BOOLOID, TEXTOID, BOOLOID, JSONBOID},
                             nullptr};
    static Statement tidy = {"DELETE FROM whisperer.subscription_secret WHERE subscription_id = $1"
                             " AND secret_key IS NULL AND auth IS NULL",
                             1,
                             {INT8OID},
                             nullptr};
    if ((input.given & (FIELD_SECRET_KEY | FIELD_AUTH)) == 0)
        return;
    Arguments arguments = {};
    arguments.add(Int64GetDatum(id));
    arguments.add(BoolGetDatum((input.given & FIELD_SECRET_KEY) != 0));
    arguments.add_text(input.secret_key);
    arguments.add(BoolGetDatum((input.given & FIELD_AUTH) != 0));
    arguments.add_jsonb(input.auth);
    internal_hide_values();
    internal_execute(&keep, arguments.values, arguments.nulls);
    internal_execute(&tidy, arguments.values);
}

} // namespace whisperer::pg
