#include "pg/prelude.hpp"

#include "pg/claims.hpp"
#include "pg/ddl_hooks.hpp"
#include "pg/launcher.hpp"
#include "pg/prepared.hpp"
#include "pg/recipients.hpp"
#include "pg/roster.hpp"
#include "pg/settings.hpp"
#include "pg/table_writer.hpp"
#include "pg/wake.hpp"

extern "C" {
__attribute__((visibility("default"))) const Pg_magic_struct *PG_MAGIC_FUNCTION_NAME(void);
PG_MODULE_MAGIC;
}

WHISPERER_EXPORT void _PG_init(void);

namespace whisperer::pg {

namespace {

// Raised while the library is loaded, so that nothing of it can be called without its shared memory: CREATE
// EXTENSION fails with it at its first function.
void require_preload() {
    if (!process_shared_preload_libraries_in_progress)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("whisperer is not in shared_preload_libraries"),
                 errdetail("Its processes and its shared memory are set up when the server starts."),
                 errhint("Add it, for instance with ALTER SYSTEM SET shared_preload_libraries = 'whisperer' "
                         "(keep what is listed there already), and restart the server.")));
}

} // namespace

} // namespace whisperer::pg

void _PG_init(void) {
    using namespace whisperer::pg;

    // pg_upgrade creates the functions of the new cluster; nothing may run, and it does not preload.
    if (IsBinaryUpgrade)
        return;

    require_preload();
    settings_init();
    roster_init();
    claims_init();
    wake_init();
    prepared_init();
    writer_init();
    recipients_init();
    ddl_hooks_init();
    launcher_init();
}
