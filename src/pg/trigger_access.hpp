// Who may make a trigger that raises events, and what it must be.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

// A trigger has been made, by attach() or CREATE TRIGGER. If it is one of ours its maker needs the level
// deliver for the event type that it names: whoever writes to the table later needs nothing, and is not
// asked. 42501 otherwise; and what check_trigger() and parse_trigger_filter() refuse, so that its maker hears
// it, not the first who writes to the table. That the type is registered is not asked for: a restore makes
// triggers of tables before it has loaded ours. From the object access hook.
void check_new_trigger(Oid trigger);

// 39P01 for a trigger that could not raise events: pg_trigger.tgtype, the number of its arguments, and
// whether it has a transition table.
void check_trigger(int16 type, int argument_count, bool has_transition_table);

// The config_filter that is its second argument; 22023 if that is none.
Jsonb *parse_trigger_filter(const char *argument);

[[noreturn]] void raise_trigger_misuse(const char *what, const char *hint);

} // namespace whisperer::pg
