#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/own_table.hpp"

extern "C" {
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *names[] = {"deliver", "subscribe", "monitor", "admin"};

bool includes(Access granted, Access needed) {
    return granted == needed || granted == Access::admin ||
           (granted == Access::subscribe && needed == Access::deliver);
}

// The columns of whisperer.access_grant in the order in which read_grant() wants them.
constexpr const char *grant_columns[] = {"role_oid", "role_name", "role_system", "level", "event_type"};

bool row_grants(const OwnTable &table, HeapTuple row, Oid role, Access needed, const char *event_type) {
    Access granted;
    if (!access_of_name(own_text(table, row, 3), &granted) || !includes(granted, needed))
        return false;
    const char *only = own_text(table, row, 4);
    if (only != nullptr && event_type != nullptr && strcmp(only, event_type) != 0)
        return false;
    bool is_null;
    Oid to = owner_role(DatumGetObjectId(own_value(table, row, 0, &is_null)), own_text(table, row, 1),
                        DatumGetInt64(own_value(table, row, 2, &is_null)));
    return OidIsValid(to) && has_privs_of_role(role, to);
}

} // namespace

const char *access_name(Access access) {
    return names[static_cast<int>(access)];
}

bool access_of_name(const char *name, Access *access) {
    for (int i = 0; i < (int)lengthof(names); i++)
        if (name != nullptr && strcmp(names[i], name) == 0) {
            *access = static_cast<Access>(i);
            return true;
        }
    return false;
}

// The table is small and read row by row: no cache that could be out of date, and a microsecond or two for
// each question.
bool access_has(Oid role, Access needed, const char *event_type) {
    if (superuser_arg(role))
        return true;
    OwnTable table;
    own_open(&table, "access_grant", grant_columns, lengthof(grant_columns));
    SysScanDesc scan = systable_beginscan(table.relation, InvalidOid, false, nullptr, 0, nullptr);
    bool found = false;
    for (HeapTuple row; !found && HeapTupleIsValid(row = systable_getnext(scan));)
        found = row_grants(table, row, role, needed, event_type);
    systable_endscan(scan);
    own_close(&table);
    return found;
}

void access_check(Oid role, Access needed, const char *event_type) {
    if (access_has(role, needed, event_type))
        return;
    if (event_type != nullptr)
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied for event type \"%s\"", shortened(event_type)),
                        errdetail("Role \"%s\" needs the level \"%s\" of whisperer for it.",
                                  GetUserNameFromId(role, true), access_name(needed)),
                        errhint("whisperer.grant_access() gives it.")));
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for whisperer"),
                    errdetail("Role \"%s\" needs the level \"%s\" of whisperer.",
                              GetUserNameFromId(role, true), access_name(needed)),
                    errhint("whisperer.grant_access() gives it.")));
}

bool access_owns(Oid role, Oid owner) {
    return OidIsValid(owner) && has_privs_of_role(role, owner);
}

bool access_manages(Oid role, Oid owner) {
    return access_owns(role, owner) || access_has(role, Access::admin, nullptr);
}

Oid owner_role(Oid owner_oid, const char *owner_name, int64 owner_system) {
    if (owner_system == static_cast<int64>(GetSystemIdentifier()))
        return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner_oid)) ? owner_oid : InvalidOid;
    return owner_name == nullptr ? InvalidOid : get_role_oid(owner_name, true);
}

} // namespace whisperer::pg
