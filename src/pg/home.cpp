#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/grants.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
}

namespace whisperer::pg {

namespace {

// Numbers of another cluster mean nothing here: the role of that name becomes the owner. Where there is none
// the owner is gone, for good: a role that gets the name later must not inherit.
void adopt_owners(int64 system) {
    static Statement subscriptions = {
        "UPDATE whisperer.subscription s SET owner_oid = r.oid, owner_system = $1 FROM pg_catalog.pg_roles r"
        " WHERE s.owner_system <> $1 AND NOT s.owner_dropped AND r.rolname = s.owner_name",
        1,
        {INT8OID},
        nullptr};
    static Statement lost_subscriptions = {"UPDATE whisperer.subscription SET owner_dropped = true WHERE "
                                           "owner_system <> $1 AND NOT owner_dropped",
                                           1,
                                           {INT8OID},
                                           nullptr};
    static Statement event_types = {"UPDATE whisperer.event_type_entry e SET owner_oid = r.oid, owner_system "
                                    "= $1 FROM pg_catalog.pg_roles r"
                                    " WHERE e.owner_system <> $1 AND r.rolname = e.owner_name",
                                    1,
                                    {INT8OID},
                                    nullptr};
    // Number 0 is nobody's.
    static Statement lost_event_types = {
        "UPDATE whisperer.event_type_entry SET owner_oid = 0, owner_system = $1 WHERE owner_system <> $1",
        1,
        {INT8OID},
        nullptr};
    Datum arguments[] = {Int64GetDatum(system)};
    internal_execute(&subscriptions, arguments);
    internal_execute(&lost_subscriptions, arguments);
    internal_execute(&event_types, arguments);
    internal_execute(&lost_event_types, arguments);
    grants_adopt(system);
}

// Transaction numbers of another cluster mean nothing here either.
void restamp_transactions() {
    static Statement subscriptions = {
        "UPDATE whisperer.subscription SET change_xid = pg_catalog.pg_current_xact_id()", 0, {}, nullptr};
    static Statement deliveries = {
        "UPDATE whisperer.delivery SET xid = pg_catalog.pg_current_xact_id()", 0, {}, nullptr};
    internal_execute(&subscriptions, nullptr);
    internal_execute(&deliveries, nullptr);
}

void move_home(int64 system) {
    static Statement forget = {"DELETE FROM whisperer.home", 0, {}, nullptr};
    static Statement stamp = {"INSERT INTO whisperer.home VALUES ($1, $2)", 2, {INT8OID, OIDOID}, nullptr};
    Datum arguments[] = {Int64GetDatum(system), ObjectIdGetDatum(MyDatabaseId)};
    internal_execute(&forget, nullptr);
    internal_execute(&stamp, arguments);
}

} // namespace

int64 home_system() {
    return (int64)GetSystemIdentifier();
}

void home_stamp() {
    // Two first registrations at once leave two equal rows, which do no harm.
    static Statement stamp = {
        "INSERT INTO whisperer.home SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM whisperer.home)",
        2,
        {INT8OID, OIDOID},
        nullptr};
    Datum arguments[] = {Int64GetDatum(home_system()), ObjectIdGetDatum(MyDatabaseId)};
    internal_execute(&stamp, arguments);
}

bool home_is_copy() {
    static Statement foreign = {
        "SELECT 1 FROM whisperer.home WHERE system_identifier <> $1 OR database_oid <> $2 LIMIT 1",
        2,
        {INT8OID, OIDOID},
        nullptr};
    Datum arguments[] = {Int64GetDatum(home_system()), ObjectIdGetDatum(MyDatabaseId)};
    return internal_execute(&foreign, arguments) > 0;
}

bool home_refresh_owners() {
#define RENAMED                                                                                              \
    "o.owner_system = $1 AND EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = o.owner_oid"            \
    " AND r.rolname <> o.owner_name)"
#define DROPPED                                                                                              \
    "o.owner_system = $1 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = o.owner_oid)"
#define RENAMED_SUBSCRIPTIONS "whisperer.subscription o WHERE NOT o.owner_dropped AND " RENAMED
#define DROPPED_SUBSCRIPTIONS "whisperer.subscription o WHERE NOT o.owner_dropped AND " DROPPED
#define RENAMED_TYPES "whisperer.event_type_entry o WHERE " RENAMED
#define DROPPED_TYPES "whisperer.event_type_entry o WHERE o.owner_oid <> 0 AND " DROPPED
#define NAME_OF(owner) "(SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid = " owner ")"
    static Statement changes[] = {
        {"UPDATE whisperer.subscription s SET owner_name = " NAME_OF(
             "s.owner_oid") " WHERE s.id IN (SELECT o.id FROM " RENAMED_SUBSCRIPTIONS
                            " FOR UPDATE OF o SKIP LOCKED)",
         1,
         {INT8OID},
         nullptr},
        // Without change_xid: the worker that does this reads all subscriptions next, by the snapshot that it
        // has, in which its own transaction is not over. Every other worker sees for itself that the role is
        // gone.
        {"UPDATE whisperer.subscription SET owner_dropped = true"
         " WHERE id IN (SELECT o.id FROM " DROPPED_SUBSCRIPTIONS " FOR UPDATE OF o SKIP LOCKED)",
         1,
         {INT8OID},
         nullptr},
        {"UPDATE whisperer.event_type_entry e SET owner_name = " NAME_OF(
             "e.owner_oid") " WHERE e.event_type IN (SELECT o.event_type FROM " RENAMED_TYPES
                            " FOR UPDATE OF o SKIP LOCKED)",
         1,
         {INT8OID},
         nullptr},
        {"UPDATE whisperer.event_type_entry SET owner_oid = 0"
         " WHERE event_type IN (SELECT o.event_type FROM " DROPPED_TYPES " FOR UPDATE OF o SKIP LOCKED)",
         1,
         {INT8OID},
         nullptr},
    };
    static Statement left = {
        "SELECT FROM " RENAMED_SUBSCRIPTIONS " UNION ALL SELECT FROM " DROPPED_SUBSCRIPTIONS
        " UNION ALL SELECT FROM " RENAMED_TYPES " UNION ALL SELECT FROM " DROPPED_TYPES " LIMIT 1",
        1,
        {INT8OID},
        nullptr};
    Datum arguments[] = {Int64GetDatum(home_system())};
    for (Statement &change : changes)
        internal_execute(&change, arguments);
    grants_refresh(home_system());
    return internal_execute(&left, arguments) == 0;
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.resume(): this copy is a production of its own from now on.
WHISPERER_SQL_FUNCTION(whisperer_resume) {
    (void)fcinfo;
    Oid caller = GetUserId();
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.resume()");
    InternalSql internal;
    internal_begin(&internal);
    adopt_owners(home_system());
    (void)home_refresh_owners();
    restamp_transactions();
    grants_renew();
    move_home(home_system());
    internal_end(&internal);
    wake_all();
    PG_RETURN_VOID();
}

// whisperer.owner_name(owner_oid, owner_name, owner_system), for the views: what the role is called now, or
// was.
WHISPERER_SQL_FUNCTION(whisperer_owner_name) {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
        PG_RETURN_NULL();
    Oid owner = PG_GETARG_OID(0);
    if (PG_GETARG_INT64(2) == home_system()) {
        char *name = GetUserNameFromId(owner, true);
        if (name != nullptr)
            PG_RETURN_TEXT_P(cstring_to_text(name));
    }
    if (PG_ARGISNULL(1))
        PG_RETURN_NULL();
    PG_RETURN_DATUM(PG_GETARG_DATUM(1));
}

// whisperer.owner_is_gone(owner_oid, owner_name, owner_system), for the views: then nothing is sent.
WHISPERER_SQL_FUNCTION(whisperer_owner_is_gone) {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_NULL();
    char *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
    PG_RETURN_BOOL(!OidIsValid(owner_role(PG_GETARG_OID(0), name, PG_GETARG_INT64(2))));
}

// Trigger on whisperer.home: at commit the workers look again whether this database is a copy.
WHISPERER_SQL_FUNCTION(whisperer_home_changed) {
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                errmsg("whisperer.home_changed() can only be called as a trigger"));
    whisperer::pg::wake_all();
    return PointerGetDatum(nullptr);
}
