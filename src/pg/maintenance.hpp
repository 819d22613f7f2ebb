// Retention: removes settled deliveries older than whisperer.retention from one database, in batches, and
// exits.
#pragma once

#include "pg/prelude.hpp"

// Entry point of the background worker; the argument is its slot.
WHISPERER_EXPORT void whisperer_maintenance_main(Datum main_arg);
