// whisperer.grant_access(), revoke_access(): levels of access, and what follows from them.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/grants.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/privileges.hpp"
#include "pg/registry.hpp"
#include "pg/relation_name.hpp"
#include "pg/subscription_fields.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

struct Grant {
    Oid role;
    Access level;
    const char *event_type; // null: all
};

Grant read_arguments(FunctionCallInfo fcinfo) {
    constexpr const char *level_hint = "deliver, subscribe, monitor and admin are the levels.";
    if (PG_ARGISNULL(0))
        raise_null_argument("role", "Give the name of a role.");
    if (PG_ARGISNULL(1))
        raise_null_argument("level", level_hint);
    Grant grant = {PG_GETARG_OID(0), Access::deliver, nullptr};
    const char *level = text_to_cstring(PG_GETARG_TEXT_PP(1));
    if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(grant.role)))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("role: there is none with OID %u", grant.role), errhint("Give the name of a role."));
    if (!access_of_name(level, &grant.level))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("level: there is no \"%s\"", shortened(level)), errhint("%s", level_hint));
    if (PG_ARGISNULL(2))
        return grant;
    grant.event_type = text_to_cstring(PG_GETARG_TEXT_PP(2));
    check_event_type_name(grant.event_type);
    if (grant.level == Access::monitor || grant.level == Access::admin)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("event_type: the level %s is for all event types", level),
                errhint("Leave event_type out; deliver and subscribe can be limited to one."));
    return grant;
}

// The catalog's rows that GRANT changes have no locks of their own: one at a time, until the end of the
// transaction. A lock of our own on the table (the part of it that no column has), with which the worker, who
// updates it, has nothing to do.
void lock_grants() {
    LOCKTAG tag;
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, relation_of_name("whisperer", "access_grant"),
                       UINT16_MAX);
    (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

// A statement whose parameters are a grant: role by number, name and cluster, level, event type.
uint64 execute_with(const Grant &grant, Statement *statement) {
    Datum arguments[] = {ObjectIdGetDatum(grant.role),
                         CStringGetTextDatum(GetUserNameFromId(grant.role, false)),
                         Int64GetDatum(home_system()), CStringGetTextDatum(access_name(grant.level)),
                         grant.event_type == nullptr ? (Datum)0 : CStringGetTextDatum(grant.event_type)};
    return internal_execute(statement, arguments, grant.event_type == nullptr ? "    n" : nullptr);
}

void insert_grant(const Grant &grant) {
    static Statement insert = {
        "INSERT INTO whisperer.access_grant (role_oid, role_name, role_system, level, event_type)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        5,
        {OIDOID, TEXTOID, INT8OID, TEXTOID, TEXTOID},
        nullptr};
    (void)execute_with(grant, &insert);
}

// In a copy not resumed yet it may be there by name.
bool delete_grant(const Grant &grant) {
    static Statement remove = {"DELETE FROM whisperer.access_grant WHERE level = $4"
                               " AND event_type IS NOT DISTINCT FROM $5"
                               " AND CASE WHEN role_system = $3 THEN role_oid = $1 ELSE role_name = $2 END",
                               5,
                               {OIDOID, TEXTOID, INT8OID, TEXTOID, TEXTOID},
                               nullptr};
    return execute_with(grant, &remove) > 0;
}

struct RoleLevels {
    Oid role;
    unsigned levels;
};

// The roles with grants, each once, with the levels that they have for at least one event type.
RoleLevels *all_levels(int *count) {
    static Statement all = {
        "SELECT role_oid, role_name, role_system, level FROM whisperer.access_grant", 0, {}, nullptr};
    uint64 rows = internal_execute(&all, nullptr);
    RoleLevels *result = (RoleLevels *)palloc(sizeof(RoleLevels) * (rows + 1));
    *count = 0;
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        Oid number = DatumGetObjectId(spi_value(i, 1, &is_null));
        const char *name = TextDatumGetCString(spi_value(i, 2, &is_null));
        Oid role = owner_role(number, name, DatumGetInt64(spi_value(i, 3, &is_null)));
        Access level;
        if (!OidIsValid(role) || !access_of_name(TextDatumGetCString(spi_value(i, 4, &is_null)), &level))
            continue;
        int k = 0;
        while (k < *count && result[k].role != role)
            k++;
        if (k == *count)
            result[(*count)++] = {role, 0};
        result[k].levels |= level_bit(level);
    }
    return result;
}

void renew_role(Oid role) {
    int count;
    RoleLevels *all = all_levels(&count);
    unsigned levels = 0;
    for (int i = 0; i < count; i++)
        if (all[i].role == role)
            levels = all[i].levels;
    privileges_renew(role, levels);
}

// ---- Who may no longer subscribe to a type must not go on reading it

Statement active_subscriptions = {
    "SELECT id, event_type, owner_oid, owner_name, owner_system FROM whisperer.subscription"
    " WHERE is_active AND ended_date IS NULL AND NOT owner_dropped AND ($1 IS NULL OR event_type = $1)",
    1,
    {TEXTOID},
    nullptr};

Statement pause_subscription = {
    "UPDATE whisperer.subscription SET is_active = false, inactive_reason = 'the owner may no longer "
    "subscribe to the event type',"
    " modified_date = pg_catalog.now(), change_xid = pg_catalog.pg_current_xact_id() WHERE id = $1",
    1,
    {INT8OID},
    nullptr};

bool lost(Oid revoked_from, uint64 row) {
    bool is_null;
    const char *event_type = TextDatumGetCString(spi_value(row, 2, &is_null));
    const char *name = TextDatumGetCString(spi_value(row, 4, &is_null));
    Oid owner = owner_role(DatumGetObjectId(spi_value(row, 3, &is_null)), name,
                           DatumGetInt64(spi_value(row, 5, &is_null)));
    // Subscriptions of roles that this revocation does not concern are left as they are, whoever gave them
    // away.
    return OidIsValid(owner) && has_privs_of_role(owner, revoked_from) &&
           !access_has(owner, Access::subscribe, event_type);
}

// Returns how many.
uint64 pause_lost(const Grant &grant) {
    Datum event_type = grant.event_type == nullptr ? (Datum)0 : CStringGetTextDatum(grant.event_type);
    uint64 rows =
        internal_execute(&active_subscriptions, &event_type, grant.event_type == nullptr ? "n" : nullptr);
    int64 *ids = (int64 *)palloc(sizeof(int64) * (rows + 1));
    uint64 count = 0;
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        if (lost(grant.role, i))
            ids[count++] = DatumGetInt64(spi_value(i, 1, &is_null));
    }
    for (uint64 i = 0; i < count; i++) {
        Datum id = Int64GetDatum(ids[i]);
        internal_execute(&pause_subscription, &id);
    }
    return count;
}

void check_known_type(const Grant &grant, bool or_granted) {
    static Statement granted = {
        "SELECT 1 FROM whisperer.access_grant WHERE event_type = $1 LIMIT 1", 1, {TEXTOID}, nullptr};
    if (grant.event_type == nullptr || event_type_hold(grant.event_type))
        return;
    Datum arguments[] = {CStringGetTextDatum(grant.event_type)};
    if (!or_granted || internal_execute(&granted, arguments) == 0)
        raise_no_event_type(grant.event_type);
}

} // namespace

void grants_adopt(int64 system) {
    static Statement adopt = {
        "INSERT INTO whisperer.access_grant (role_oid, role_name, role_system, level, event_type, "
        "granted_date)"
        " SELECT r.oid, r.rolname, $1, g.level, g.event_type, g.granted_date FROM whisperer.access_grant g"
        " JOIN pg_catalog.pg_roles r ON r.rolname = g.role_name WHERE g.role_system <> $1 ON CONFLICT DO "
        "NOTHING",
        1,
        {INT8OID},
        nullptr};
    static Statement forget = {
        "DELETE FROM whisperer.access_grant WHERE role_system <> $1", 1, {INT8OID}, nullptr};
    Datum arguments[] = {Int64GetDatum(system)};
    lock_grants();
    internal_execute(&adopt, arguments);
    internal_execute(&forget, arguments);
}

// Called by the worker, which shall not wait for somebody's open transaction: what is locked is left for the
// next time.
void grants_refresh(int64 system) {
    static Statement renamed = {
        "WITH stale AS (SELECT g.ctid AS place, r.rolname FROM whisperer.access_grant g"
        " JOIN pg_catalog.pg_roles r ON r.oid = g.role_oid WHERE g.role_system = $1 AND g.role_name <> "
        "r.rolname"
        " FOR UPDATE OF g SKIP LOCKED)"
        " UPDATE whisperer.access_grant g SET role_name = s.rolname FROM stale s WHERE g.ctid = s.place",
        1,
        {INT8OID},
        nullptr};
    static Statement dropped = {
        "WITH stale AS (SELECT g.ctid AS place FROM whisperer.access_grant g WHERE g.role_system = $1"
        " AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = g.role_oid) FOR UPDATE SKIP LOCKED)"
        " DELETE FROM whisperer.access_grant g USING stale s WHERE g.ctid = s.place",
        1,
        {INT8OID},
        nullptr};
    Datum arguments[] = {Int64GetDatum(system)};
    internal_execute(&renamed, arguments);
    internal_execute(&dropped, arguments);
}

void grants_renew() {
    lock_grants();
    int count;
    RoleLevels *all = all_levels(&count);
    for (int i = 0; i < count; i++)
        privileges_renew(all[i].role, all[i].levels);
}

void grants_forget_event_type(const char *event_type) {
    static Statement forget = {
        "DELETE FROM whisperer.access_grant WHERE event_type = $1", 1, {TEXTOID}, nullptr};
    Datum arguments[] = {CStringGetTextDatum(event_type)};
    lock_grants();
    int before, after;
    RoleLevels *had = all_levels(&before);
    if (internal_execute(&forget, arguments) == 0)
        return;
    RoleLevels *have = all_levels(&after);
    for (int i = 0; i < before; i++) {
        unsigned levels = 0;
        for (int k = 0; k < after; k++)
            if (have[k].role == had[i].role)
                levels = have[k].levels;
        if (levels != had[i].levels)
            privileges_renew(had[i].role, levels);
    }
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.grant_access(role, level, event_type)
WHISPERER_SQL_FUNCTION(whisperer_grant_access) {
    Oid caller = GetUserId();
    Grant grant = read_arguments(fcinfo);
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.grant_access()");
    InternalSql internal;
    internal_begin(&internal);
    check_known_type(grant, false);
    lock_grants();
    home_stamp();
    insert_grant(grant);
    privileges_grant(grant.role, level_bit(grant.level));
    internal_end(&internal);
    PG_RETURN_VOID();
}

// whisperer.revoke_access(role, level, event_type)
WHISPERER_SQL_FUNCTION(whisperer_revoke_access) {
    Oid caller = GetUserId();
    Grant grant = read_arguments(fcinfo);
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.revoke_access()");
    InternalSql internal;
    internal_begin(&internal);
    check_known_type(grant, true);
    lock_grants();
    uint64 paused = 0;
    if (delete_grant(grant)) {
        renew_role(grant.role);
        if (grant.level == Access::subscribe || grant.level == Access::admin)
            paused = pause_lost(grant);
    }
    internal_end(&internal);
    if (paused > 0) {
        wake_subscriptions();
        ereport(
            NOTICE,
            errmsg("%llu subscription(s) paused, whose owner may no longer subscribe to the event type",
                   (unsigned long long)paused),
            errhint(
                "whisperer.subscriptions shows them; whisperer.update_subscription() resumes them once their"
                " owner may subscribe again."));
    }
    PG_RETURN_VOID();
}

// whisperer.renew_privileges(): for update scripts, which may have dropped and made again what was granted,
// and after a restore without privileges.
WHISPERER_SQL_FUNCTION(whisperer_renew_privileges) {
    (void)fcinfo;
    Oid caller = GetUserId();
    access_check(caller, Access::admin, nullptr);
    require_writable("whisperer.renew_privileges()");
    InternalSql internal;
    internal_begin(&internal);
    grants_renew();
    internal_end(&internal);
    PG_RETURN_VOID();
}
