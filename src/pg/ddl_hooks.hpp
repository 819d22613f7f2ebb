// Getting out of the way of statements that need a database without connections, and hearing of those that
// concern the processes: CREATE and DROP EXTENSION, ALTER DATABASE and ALTER ROLE … SET, COMMIT PREPARED.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Sets the hooks, before those that were there. From _PG_init.
void ddl_hooks_init();

} // namespace whisperer::pg
