// Who may make a trigger that raises events.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

// A trigger has been made, by attach() or CREATE TRIGGER. If it is one of ours its maker needs the level
// deliver for the event type that it names: whoever writes to the table later needs nothing, and is not
// asked. 42501 otherwise. From the object access hook.
void check_new_trigger(Oid trigger);

} // namespace whisperer::pg
