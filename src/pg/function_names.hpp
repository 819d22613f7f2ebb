// Users' functions, named in arguments as text: 'foo.callback', 'callback' or 'foo.callback(jsonb, text,
// jsonb, jsonb)'.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

enum class FunctionUse {
    serializer, // of one composite type, or of jsonb; returns jsonb or json
    customizer, // (jsonb) returns jsonb
    callback,   // (jsonb, text, jsonb, jsonb)
    countdown,  // (integer, jsonb) returns a number
    validator   // (jsonb) returns jsonb
};

// Looks a function up in the current search_path, so before internal_begin(). 42883 when there is none that
// can be used so, naming the argument and what was looked for; 42725 when a serializer's name fits several;
// 42804 for the wrong result.
Oid function_find(FunctionUse use, const char *name);

// 42501 unless `runner`, the role as which it will run, has EXECUTE and USAGE of its schema.
void function_check_runner(FunctionUse use, Oid function, Oid runner);

// As it is stored: schema, name and argument types, such that a search_path of "pg_catalog, pg_temp" finds
// the same one. palloc'ed.
char *function_stored_name(Oid function);

} // namespace whisperer::pg
