// The text of a row as to_jsonb(row)::text gives it, made without the jsonb in between: three times as fast,
// and what every event of a plain table needs.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "lib/stringinfo.h"
}

namespace whisperer::pg {

// Appends the text of a row of a table or composite type, the same as the default serialization's whatever
// the session's settings. False, with nothing appended, when the type has a column that is not one of the
// usual built-in types: nothing of a user's runs here.
bool append_row_text(StringInfo text, Datum row, Oid type);

} // namespace whisperer::pg
