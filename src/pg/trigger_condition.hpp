// The pieces of a CREATE TRIGGER that users give as text.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

enum TriggerOperation : unsigned { ON_INSERT = 1u << 0, ON_UPDATE = 1u << 1, ON_DELETE = 1u << 2 };

// 'INSERT', or several joined by OR, in any letter case; 22023 for anything else. Returns TriggerOperations.
unsigned parse_trigger_operations(const char *text);

// 22023 unless the text is one SQL expression and nothing beyond it, so that it can be put between
// parentheses without becoming something else. What the expression means is left to CREATE TRIGGER.
void check_trigger_condition(const char *text);

} // namespace whisperer::pg
