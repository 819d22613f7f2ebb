// Looks once whether a database has the extension: only a process connected to it can tell.
#pragma once

#include "pg/prelude.hpp"

// Entry point of the background worker; the argument is its slot.
WHISPERER_EXPORT void whisperer_probe_main(Datum main_arg);
