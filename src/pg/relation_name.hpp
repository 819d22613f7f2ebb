// Relations are stored as schema and name: a number would mean another table in a copy.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Schema and name of a relation, palloc'ed; both null when it is gone.
void relation_name_of(Oid relation, const char **schema, const char **name);

// The relation of that name now, InvalidOid if there is none. Asks for no privilege and raises nothing.
Oid relation_of_name(const char *schema, const char *name);

} // namespace whisperer::pg
