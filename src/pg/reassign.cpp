// whisperer.reassign(): what one role owns becomes another's.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/countdown_config.hpp"
#include "pg/error_capture.hpp"
#include "pg/errors.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

// What is moved is what the views show as owned by that name, also when it was a role's that is gone; also to
// a role that has got the name since, which does not inherit it by itself. $1: the old name; $2, $3: the new
// owner's number and cluster.
#define OF_OLD_OWNER "owner_name = $1 AND (owner_system <> $3 OR owner_oid <> $2 OR owner_dropped)"

[[noreturn]] void raise_conflict(const char *event_type, const char *target_url, const char *detail) {
    ereport(ERROR, errcode(ERRCODE_WH_ALREADY_SUBSCRIBED),
            errmsg("\"%s\" is already subscribed to event type \"%s\"", target_url, event_type),
            errdetail_internal("%s", detail),
            errhint("End one of the two with whisperer.unsubscribe(). Nothing was reassigned."));
}

// Two of those that the new owner would have, of which there may be only one.
void check_unique(Datum *arguments) {
    static Statement find = {
        "SELECT o.event_type, o.target_url, o.id, n.id FROM whisperer.subscription o JOIN "
        "whisperer.subscription n"
        " ON n.event_type = o.event_type AND n.target_url = o.target_url AND n.id <> o.id"
        " WHERE o.owner_name = $1 AND (o.owner_system <> $3 OR o.owner_oid <> $2 OR o.owner_dropped)"
        " AND o.ended_date IS NULL AND n.ended_date IS NULL"
        " AND (n.owner_system = $3 AND n.owner_oid = $2 OR n.owner_name = $1) ORDER BY o.id LIMIT 1",
        3,
        {TEXTOID, OIDOID, INT8OID},
        nullptr};
    if (internal_execute(&find, arguments) == 0)
        return;
    bool is_null;
    raise_conflict(
        TextDatumGetCString(spi_value(0, 1, &is_null)), TextDatumGetCString(spi_value(0, 2, &is_null)),
        psprintf("Subscriptions " INT64_FORMAT " and " INT64_FORMAT " would both be the new owner's.",
                 DatumGetInt64(spi_value(0, 3, &is_null)), DatumGetInt64(spi_value(0, 4, &is_null))));
}

// Functions run as the owner. Whoever has not the new owner's privileges could otherwise subscribe with a
// function of his, and give the subscription away to have it run as somebody mightier.
[[noreturn]] void raise_runs_functions(Oid caller, Oid new_owner, const char *what) {
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("permission denied to give what runs functions to role \"%s\"",
                   GetUserNameFromId(new_owner, false)),
            errdetail("A function of %s would run as that role, whose privileges \"%s\" has not.", what,
                      GetUserNameFromId(caller, false)),
            errhint("Let a member of that role, or a superuser, do it."));
}

bool has_custom_countdown(uint64 row, int number) {
    bool is_null;
    Datum config = spi_value(row, number, &is_null);
    CustomChoice custom;
    return !is_null && countdown_is_custom(DatumGetJsonbP(config), &custom);
}

struct Move {
    Oid caller;
    Oid new_owner;
    Datum *arguments;
};

// The moves look at the rows as they move them, since a function may have been set a moment ago by somebody
// who had the row locked. $4: the new owner's name.

void move_types(const Move &move) {
    static Statement statement = {"WITH moved AS (UPDATE whisperer.event_type_entry SET owner_oid = $2, "
                                  "owner_name = $4, owner_system = $3"
                                  " WHERE owner_name = $1 AND (owner_system <> $3 OR owner_oid <> $2)"
                                  " RETURNING event_type, serializer, customizer)"
                                  " SELECT pg_catalog.format('event type %L', event_type) FROM moved"
                                  " WHERE serializer IS NOT NULL OR customizer IS NOT NULL",
                                  4,
                                  {TEXTOID, OIDOID, INT8OID, TEXTOID},
                                  nullptr};
    bool is_null;
    if (internal_execute(&statement, move.arguments) > 0 && !has_privs_of_role(move.caller, move.new_owner))
        raise_runs_functions(move.caller, move.new_owner, TextDatumGetCString(spi_value(0, 1, &is_null)));
}

// Ended ones, too: their last callbacks may still wait to be called.
void move_subscriptions(void *argument) {
    static Statement statement = {
        "WITH moved AS (UPDATE whisperer.subscription SET owner_oid = $2, owner_name = $4, owner_system = $3,"
        " owner_dropped = false, modified_date = pg_catalog.now(), change_xid = "
        "pg_catalog.pg_current_xact_id()"
        " WHERE " OF_OLD_OWNER " RETURNING id, callback, retry_countdown_config, ended_date)"
        " SELECT pg_catalog.format('subscription %s', id), callback IS NOT NULL,"
        " CASE WHEN ended_date IS NULL THEN retry_countdown_config END FROM moved",
        4,
        {TEXTOID, OIDOID, INT8OID, TEXTOID},
        nullptr};
    const Move *move = (const Move *)argument;
    uint64 rows = internal_execute(&statement, move->arguments);
    if (has_privs_of_role(move->caller, move->new_owner))
        return;
    for (uint64 row = 0; row < rows; row++) {
        bool is_null;
        if (DatumGetBool(spi_value(row, 2, &is_null)) || has_custom_countdown(row, 3))
            raise_runs_functions(move->caller, move->new_owner,
                                 TextDatumGetCString(spi_value(row, 1, &is_null)));
    }
}

void reassign(Oid caller, const char *old_owner, Oid new_owner) {
    static Statement anything = {
        "SELECT 1 WHERE EXISTS (SELECT FROM whisperer.subscription WHERE owner_name = $1)"
        " OR EXISTS (SELECT FROM whisperer.event_type_entry WHERE owner_name = $1)"
        " OR EXISTS (SELECT FROM whisperer.custom_countdown WHERE owner_name = $1)",
        1,
        {TEXTOID},
        nullptr};
    static Statement move_countdowns = {"UPDATE whisperer.custom_countdown SET owner_oid = $2, owner_name = "
                                        "$4, owner_system = $3 WHERE owner_name = $1"
                                        " AND (owner_system <> $3 OR owner_oid <> $2)",
                                        4,
                                        {TEXTOID, OIDOID, INT8OID, TEXTOID},
                                        nullptr};
    Datum arguments[] = {CStringGetTextDatum(old_owner), ObjectIdGetDatum(new_owner),
                         Int64GetDatum(home_system()),
                         CStringGetTextDatum(GetUserNameFromId(new_owner, false))};
    InternalSql internal;
    internal_begin(&internal);
    (void)home_refresh_owners(); // names as they are now
    if (internal_execute(&anything, arguments) == 0 && !OidIsValid(get_role_oid(old_owner, true)))
        ereport(
            ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("role \"%s\" does not exist", shortened(old_owner)),
            errdetail("Nor does one that was dropped own a subscription or an event type under that name."),
            errhint("The owners are in whisperer.subscriptions and whisperer.event_types."));
    check_unique(arguments);
    Move move = {caller, new_owner, arguments};
    move_types(move);
    internal_execute(&move_countdowns, arguments); // which run as the subscriptions' owners
    CapturedError error;
    if (capture_error(move_subscriptions, &move, &error, ERRCODE_UNIQUE_VIOLATION))
        ereport(ERROR, errcode(ERRCODE_WH_ALREADY_SUBSCRIBED),
                errmsg("the new owner has meanwhile got a subscription that \"%s\" has", old_owner),
                errhint("Try again to see which. Nothing was reassigned."));
    internal_end(&internal);
    wake_subscriptions();
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.reassign(old_owner text, new_owner regrole)
WHISPERER_SQL_FUNCTION(whisperer_reassign) {
    Oid caller = GetUserId();
    if (PG_ARGISNULL(0))
        raise_null_argument("old_owner", "Give the name of a role, as whisperer.subscriptions shows it.");
    if (PG_ARGISNULL(1))
        raise_null_argument("new_owner", "Give the name of a role.");
    Oid new_owner = PG_GETARG_OID(1);
    access_check(caller, Access::admin, nullptr);
    if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(new_owner)))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("new_owner: there is no role with OID %u", new_owner),
                errhint("Give the name of a role."));
    require_writable("whisperer.reassign()");
    reassign(caller, text_to_cstring(PG_GETARG_TEXT_PP(0)), new_owner);
    PG_RETURN_VOID();
}
