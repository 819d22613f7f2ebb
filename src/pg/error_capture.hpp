// Telling an error of PostgreSQL in the words of ours.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

struct CapturedError {
    int sqlstate;
    const char *message; // palloc'ed; its detail is not kept
};

// Runs call(argument); true when it raised an error, which is then in *error. Nothing is rolled back, so
// after true the caller must raise an error itself, at once. Cancels, shutdowns and lack of resources are
// passed on as they are, and with only_sqlstate everything but that one.
bool capture_error(void (*call)(void *argument), void *argument, CapturedError *error, int only_sqlstate = 0);

// While one is in place, the log shows neither the statement nor the context of any error: they may hold a
// secret as a literal. Goes away by itself when an ERROR is thrown.
struct StatementHider {
    ErrorContextCallback callback;
};
void hide_statement_begin(StatementHider *hider);
void hide_statement_end(const StatementHider *hider);

} // namespace whisperer::pg
