// Who may do what (contract, section 11): the levels of whisperer.access_grant. EXECUTE on the functions,
// which grants.hpp derives from the same table, is the first gate; these checks are the second, and know
// event types.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// subscribe includes deliver, admin includes all. monitor and admin are never limited to an event type.
enum class Access { deliver, subscribe, monitor, admin };

// As in whisperer.access_grant and in grant_access().
const char *access_name(Access access);

// False when there is no level of that name.
bool access_of_name(const char *name, Access *access);

// 42501 unless `role` has the level (for the event type; without one, for at least one event type). Grants to
// roles whose privileges it has count. Superusers have all. Reads the grants that are committed, whatever the
// transaction's snapshot.
void access_check(Oid role, Access needed, const char *event_type);

// Has it?
bool access_has(Oid role, Access needed, const char *event_type);

// May `role` manage what `owner` owns? True for itself, for roles whose privileges it has, for admins. An
// owner that is gone (InvalidOid) is managed by admins only.
bool access_manages(Oid role, Oid owner);

// The same without admins' right: is it its own? For loops, where whether it is an admin was asked before.
bool access_owns(Oid role, Oid owner);

// The owner stored as (number, name, cluster): in the same cluster the number decides, in a copy the name;
// InvalidOid when neither names a role.
Oid owner_role(Oid owner_oid, const char *owner_name, int64 owner_system);

} // namespace whisperer::pg
