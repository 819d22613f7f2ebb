// The privileges of PostgreSQL that a level of access needs: USAGE on the schema, EXECUTE on functions,
// SELECT on views and on the columns that the views read.
#pragma once

#include "pg/prelude.hpp"

#include "pg/access.hpp"

namespace whisperer::pg {

// A set of levels.
inline unsigned level_bit(Access level) {
    return 1u << static_cast<unsigned>(level);
}

// Both run inside internal_begin()/internal_end(). Gives the role what these levels need, beside what it has.
void privileges_grant(Oid role, unsigned levels);

// Takes away all that the role has in the schema, and gives it what these levels need.
void privileges_renew(Oid role, unsigned levels);

} // namespace whisperer::pg
