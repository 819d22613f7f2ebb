#include "pg/prelude.hpp"

#include "pg/errors.hpp"

extern "C" {
#include "mb/pg_wchar.h"
#include "tcop/utility.h"
}

namespace whisperer::pg {

namespace {

// Core texts are UTF-8.
const char *to_server(const char *text) {
    return pg_any_to_server(text, static_cast<int>(strlen(text)), PG_UTF8);
}

} // namespace

void raise_null_argument(const char *argument, const char *hint) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must not be null", argument),
                    hint == nullptr ? 0 : errhint("%s", hint)));
}

void raise_field_error(const core::FieldError &error) {
    const char *message = to_server(error.message);
    const char *hint = to_server(error.hint);
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    error.field[0] == '\0' ? errmsg("%s", message) : errmsg("%s: %s", error.field, message),
                    hint[0] == '\0' ? 0 : errhint("%s", hint)));
}

const char *shortened(const char *text) {
    constexpr int most = 512;
    int len = static_cast<int>(strlen(text));
    return len <= most ? text : psprintf("%.*s...", pg_mbcliplen(text, len, most), text);
}

void require_writable(const char *function) {
    PreventCommandIfReadOnly(function);
    PreventCommandIfParallelMode(function);
    PreventCommandDuringRecovery(function);
}

} // namespace whisperer::pg
