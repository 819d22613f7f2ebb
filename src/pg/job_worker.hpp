// The processes that call users' functions: callbacks in one kind of them, custom countdowns in the other, so
// that the delivery worker never runs user code. See job_worker.cpp.
#pragma once

#include "pg/prelude.hpp"

// Entry points of the background workers.
WHISPERER_EXPORT void whisperer_callback_main(Datum main_arg);
WHISPERER_EXPORT void whisperer_countdown_main(Datum main_arg);
