#include "pg/prelude.hpp"

#include "pg/error_capture.hpp"

extern "C" {
#include "utils/memutils.h"
}

namespace whisperer::pg {

namespace {

void hide(void *) {
    errhidestmt(true);
    errhidecontext(true);
}

} // namespace

bool capture_error(void (*call)(void *argument), void *argument, CapturedError *error, int only_sqlstate) {
    MemoryContext context = CurrentMemoryContext;
    volatile bool raised = false;
    PG_TRY();
    { call(argument); }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData *data = CopyErrorData();
        int category = ERRCODE_TO_CATEGORY(data->sqlerrcode);
        if (category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES ||
            (only_sqlstate != 0 && data->sqlerrcode != only_sqlstate))
            PG_RE_THROW();
        FlushErrorState();
        error->sqlstate = data->sqlerrcode;
        error->message = data->message;
        raised = true;
    }
    PG_END_TRY();
    return raised;
}

void hide_statement_begin(StatementHider *hider) {
    hider->callback.previous = error_context_stack;
    hider->callback.callback = hide;
    hider->callback.arg = nullptr;
    error_context_stack = &hider->callback;
}

void hide_statement_end(const StatementHider *hider) {
    error_context_stack = hider->callback.previous;
}

} // namespace whisperer::pg
