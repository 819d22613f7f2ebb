// Calling users' functions, which are stored as text: 'schema.name(argument types)'.
//
// Every call
// - finds the function of exactly that schema, name and types (never by anybody's search_path); 42883 when
// there is none;
// - checks that the role as which it runs has EXECUTE on it and USAGE of its schema; 42501;
// - runs as that role, whoever the session's user is, in a security-restricted operation, whose limits
// PostgreSQL sets: no
//   SET ROLE, no temporary tables, no cursors WITH HOLD, no LISTEN, no PREPARE, and no deferred constraint
//   triggers;
// - runs with search_path "pg_catalog, pg_temp" and the settings of neutral_settings.hpp. A function names
// its tables with
//   their schema, or has a SET search_path of its own (the caller's path would let a writer choose what it
//   finds, and the function's own schema may be one in which others make objects);
// - sees what the transaction wrote up to now, whatever its volatility;
// - leaves no settings and no session-level advisory locks behind.
// An ERROR of the function passes to the caller, with a line "whisperer <what> <name>" in its context; user,
// settings and snapshot are restored by the abort of the (sub)transaction, without which nobody may go on.
//
// In a transaction of its own (a worker's) do besides: user_function_transaction_start() after its start, and
// advisory_locks_release_all() after its end, abort included. In a user's transaction neither is possible:
// making constraints immediate would check what the user deferred. There a function cannot write to a table
// with an INITIALLY DEFERRED constraint.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

struct UserFunction {
    const char *what; // for messages: "serializer"
    const char *name; // as function_stored_name() gave it
    Oid runner;       // the role as which it runs; InvalidOid is not allowed
    // The type of the row that is its only argument, if it is one. A table that was renamed has taken its row
    // type and the function along, not the name stored here: where there is none of that name, it is the one
    // of the same schema and name that takes this row.
    Oid row = InvalidOid;
};

// What it takes and returns now.
struct UserFunctionTypes {
    int argument_count;
    Oid first_argument; // InvalidOid if there is none
    Oid result;
};
UserFunctionTypes user_function_types(const UserFunction &function);

// 42883 when there is none with so many arguments, 42501 when its runner may not execute it. Does not call
// it.
void user_function_check(const UserFunction &function, int argument_count);

// Any function. argument_count must be what it takes, of the types in its name (else 42883); result is in the
// current memory context, and its type in *result_type, if wanted. A STRICT function is not called with a
// NULL: the result is NULL then.
Datum user_function_call(const UserFunction &function, const NullableDatum *arguments, int argument_count,
                         bool *is_null, Oid *result_type = nullptr);

// One that returns jsonb or json (else 42804). Null when it returned NULL.
Jsonb *user_function_call_jsonb(const UserFunction &function, const NullableDatum *arguments,
                                int argument_count);

// f(jsonb): customizers, validators.
Jsonb *user_function_call_jsonb(const UserFunction &function, Jsonb *argument);

// f(integer, jsonb) returning a number of any built-in type (else 42804): custom countdowns. False when it
// returned NULL.
bool user_function_call_number(const UserFunction &function, int32 first, Jsonb *second, double *result);

// SET CONSTRAINTS ALL IMMEDIATE, at the start of a transaction of our own, so that functions in it can write
// to tables with deferrable foreign keys.
void user_function_transaction_start();

// The user function in which this error arose, as "serializer app.f(app.t)", or null. palloc'ed.
const char *user_function_of_error(const ErrorData *error);

} // namespace whisperer::pg
