// The one static process: finds the databases that have the extension and starts, restarts and stops their
// workers. It does no I/O and delivers nothing, so it always answers. Its state machine is drawn at the top
// of launcher_machine.cpp.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Registers it with the postmaster. From _PG_init.
void launcher_init();

} // namespace whisperer::pg

// Entry point of the background worker.
WHISPERER_EXPORT void whisperer_launcher_main(Datum main_arg);
