#include "pg/prelude.hpp"

#include "pg/access.hpp"

extern "C" {
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "utils/acl.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

const char *access_name(Access access) {
    switch (access) {
    case Access::deliver:
        return "deliver";
    case Access::subscribe:
        return "subscribe";
    case Access::monitor:
        return "monitor";
    case Access::admin:
        return "admin";
    }
    return "unknown";
}

} // namespace

// One rule for every level until grants exist: superusers, whatever is asked for.
bool access_has(Oid role, Access, const char *) {
    return superuser_arg(role);
}

void access_check(Oid role, Access needed, const char *event_type) {
    if (access_has(role, needed, event_type))
        return;
    if (event_type != nullptr)
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied for event type \"%s\"", event_type),
                        errdetail("Role \"%s\" needs the level \"%s\" of whisperer for it.",
                                  GetUserNameFromId(role, true), access_name(needed)),
                        errhint("Only superusers may do this.")));
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for whisperer"),
                    errdetail("Role \"%s\" needs the level \"%s\" of whisperer.",
                              GetUserNameFromId(role, true), access_name(needed)),
                    errhint("Only superusers may do this.")));
}

bool access_manages(Oid role, Oid owner) {
    if (access_has(role, Access::admin, nullptr))
        return true;
    return OidIsValid(owner) && has_privs_of_role(role, owner);
}

Oid owner_role(Oid owner_oid, const char *owner_name, int64 owner_system) {
    if (owner_system == static_cast<int64>(GetSystemIdentifier()))
        return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner_oid)) ? owner_oid : InvalidOid;
    return owner_name == nullptr ? InvalidOid : get_role_oid(owner_name, true);
}

} // namespace whisperer::pg
