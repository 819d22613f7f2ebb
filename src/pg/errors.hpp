// SQLSTATEs of whisperer, beside PostgreSQL's own.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/elog.h"
}

#define ERRCODE_WH_NO_SUBSCRIPTION MAKE_SQLSTATE('W', 'H', '0', '0', '1')
#define ERRCODE_WH_ALREADY_SUBSCRIBED MAKE_SQLSTATE('W', 'H', '0', '0', '2')
#define ERRCODE_WH_NO_DELIVERY MAKE_SQLSTATE('W', 'H', '0', '0', '3')
#define ERRCODE_WH_NO_EVENT_TYPE MAKE_SQLSTATE('W', 'H', '0', '0', '4')
#define ERRCODE_WH_ALREADY_DELIVERED MAKE_SQLSTATE('W', 'H', '0', '0', '5')
#define ERRCODE_WH_DUPLICATE_EVENT_TYPE MAKE_SQLSTATE('W', 'H', '0', '0', '6')
#define ERRCODE_WH_DUPLICATE_COUNTDOWN MAKE_SQLSTATE('W', 'H', '0', '0', '7')
#define ERRCODE_WH_BEING_SENT MAKE_SQLSTATE('W', 'H', '0', '0', '8')

namespace whisperer::pg {

// 22023 "<argument> must not be null", with the hint if given. Does not return.
[[noreturn]] void raise_null_argument(const char *argument, const char *hint = nullptr);

// 22023 from a core check: the field, what is wrong with it, what it may be. Does not return.
[[noreturn]] void raise_field_error(const core::FieldError &error);

// What a user gave, for a message: what is longer than any valid name (512 bytes) is cut, with "..." in place
// of the rest.
const char *shortened(const char *text);

// PostgreSQL's own error unless this transaction may write: 25006 read-only or a standby, 25000 a worker of a
// parallel query, in which a user's function is called that is wrongly marked as parallel safe.
void require_writable(const char *function);

} // namespace whisperer::pg
