// Settings under which values become text and user functions run, so that a payload does not depend on who
// writes the row.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// Opens a level of settings in which every setting that some type's output depends on has a fixed value: UTC,
// ISO dates, ISO 8601 intervals, hex bytea, shortest exact floats, and search_path "pg_catalog, pg_temp"
// (pg_temp is named so that it is searched last: a name left unqualified must not find a temporary table of
// the session's user). Returns the level; an ERROR needs no clean-up.
int neutral_settings_begin();

// Ends it: these settings, and whatever was set meanwhile, are as before.
void neutral_settings_end(int level);

} // namespace whisperer::pg
