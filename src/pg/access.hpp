// Who may do what (contract, section 11). Before grants exist only superusers may call anything; EXECUTE on
// the functions is revoked from PUBLIC by the install script, and these checks are the second gate, in one
// place.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

enum class Access { deliver, subscribe, monitor, admin };

// 42501 unless `role` has the level (for the event type, if one is given). Superusers have all.
void access_check(Oid role, Access needed, const char *event_type);

// Has it?
bool access_has(Oid role, Access needed, const char *event_type);

// May `role` see and manage what `owner` owns? True for itself, for roles whose privileges it has, for
// admins. An owner that is gone (InvalidOid) is managed by admins only.
bool access_manages(Oid role, Oid owner);

// The owner stored as (number, name, cluster): in the same cluster the number decides, in a copy the name;
// InvalidOid when neither names a role.
Oid owner_role(Oid owner_oid, const char *owner_name, int64 owner_system);

} // namespace whisperer::pg
