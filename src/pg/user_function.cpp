#include "pg/prelude.hpp"

#include "pg/advisory_locks.hpp"
#include "pg/compat.hpp"
#include "pg/known_function.hpp"
#include "pg/neutral_settings.hpp"
#include "pg/user_function.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *context_prefix = "whisperer ";

// ---- The surroundings of a call

struct Surroundings {
    Oid saved_user;
    int saved_context;
    int settings;
};

// Looked up with all rights, so that a type in a schema that the runner may not use does no harm.
KnownFunction *enter(Surroundings *around, const UserFunction &function) {
    GetUserIdAndSecContext(&around->saved_user, &around->saved_context);
    SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, around->saved_context | SECURITY_RESTRICTED_OPERATION);
    around->settings = neutral_settings_begin();
    return known_function(function);
}

void leave(const Surroundings *around) {
    neutral_settings_end(around->settings);
    SetUserIdAndSecContext(around->saved_user, around->saved_context);
}

void check_runner(const UserFunction &function, const KnownFunction *known) {
    if (compat_may_execute(known->oid, function.runner) &&
        compat_may_use_schema(known->schema, function.runner))
        return;
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("%s: permission denied for function %s", function.what, function.name),
            errdetail("Role \"%s\", as which it runs, has no EXECUTE on it or no USAGE on its schema.",
                      GetUserNameFromId(function.runner, true)),
            errhint("Grant them to that role."));
}

// What a caller can make use of.
struct WantedResult {
    const char *name;
    bool (*accepts)(Oid type);
};

// Before the call: a function whose result cannot be used shall not run.
void check_result(const UserFunction &function, const KnownFunction *known, const WantedResult &wanted) {
    if (wanted.accepts(known->types.result))
        return;
    ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
            errmsg("%s: function %s returns %s, not %s", function.what, function.name,
                   format_type_be(known->types.result), wanted.name),
            errhint("Make it return %s.", wanted.name));
}

void say_where(void *argument) {
    const UserFunction *function = (const UserFunction *)argument;
    errcontext("%s%s %s", context_prefix, function->what, function->name);
}

Datum invoke(const UserFunction &function, FmgrInfo *lookup, const NullableDatum *arguments, int count,
             bool *is_null) {
    LOCAL_FCINFO(call, FUNC_MAX_ARGS);
    // The collation that the function's text arguments would have in a query.
    InitFunctionCallInfoData(*call, lookup, (short)count, DEFAULT_COLLATION_OID, nullptr, nullptr);
    for (int i = 0; i < count; i++) {
        if (arguments[i].isnull && lookup->fn_strict) {
            *is_null = true;
            return (Datum)0;
        }
        call->args[i] = arguments[i];
    }
    ErrorContextCallback where = {error_context_stack, say_where, (void *)&function};
    error_context_stack = &where;
    PgStat_FunctionCallUsage usage;
    pgstat_init_function_usage(call, &usage);
    Datum result = FunctionCallInvoke(call);
    pgstat_end_function_usage(&usage, true);
    error_context_stack = where.previous;
    *is_null = call->isnull;
    return result;
}

Datum call_function(const UserFunction &function, const NullableDatum *arguments, int argument_count,
                    const WantedResult &wanted, bool *is_null, Oid *result_type) {
    check_stack_depth();
    Surroundings around;
    KnownFunction *known = enter(&around, function);
    if (known->types.argument_count != argument_count)
        raise_function_gone(function);
    check_runner(function, known);
    check_result(function, known, wanted);
    *result_type = known->types.result;
    bool shared;
    FmgrInfo *lookup = known_function_lookup(known, &shared);
    AdvisoryLocks locks = advisory_locks_held();

    SetUserIdAndSecContext(function.runner, around.saved_context | SECURITY_RESTRICTED_OPERATION);
    InvokeFunctionExecuteHook(known->oid);
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
    if (shared)
        known->in_use = true;
    Datum result = invoke(function, lookup, arguments, argument_count, is_null);
    if (shared)
        known->in_use = false;
    PopActiveSnapshot();
    advisory_locks_release_new(locks);
    leave(&around);
    return result;
}

bool is_any(Oid) {
    return true;
}

bool is_json(Oid type) {
    return type == JSONBOID || type == JSONOID;
}

bool is_number(Oid type) {
    return type == INT2OID || type == INT4OID || type == INT8OID || type == FLOAT4OID || type == FLOAT8OID ||
           type == NUMERICOID;
}

} // namespace

UserFunctionTypes user_function_types(const UserFunction &function) {
    const KnownFunction *kept = known_function_kept(function);
    if (kept != nullptr)
        return kept->types;
    Surroundings around;
    UserFunctionTypes types = enter(&around, function)->types;
    leave(&around);
    return types;
}

void user_function_check(const UserFunction &function, int argument_count) {
    Surroundings around;
    KnownFunction *known = enter(&around, function);
    if (known->types.argument_count != argument_count)
        raise_function_gone(function);
    check_runner(function, known);
    leave(&around);
}

Datum user_function_call(const UserFunction &function, const NullableDatum *arguments, int argument_count,
                         bool *is_null, Oid *result_type) {
    Oid type;
    Datum result = call_function(function, arguments, argument_count, {"anything", is_any}, is_null, &type);
    if (result_type != nullptr)
        *result_type = type;
    return result;
}

Jsonb *user_function_call_jsonb(const UserFunction &function, const NullableDatum *arguments,
                                int argument_count) {
    bool is_null;
    Oid type;
    Datum result = call_function(function, arguments, argument_count, {"jsonb", is_json}, &is_null, &type);
    if (is_null)
        return nullptr;
    if (type == JSONOID)
        result = DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(result)));
    return DatumGetJsonbP(result);
}

Jsonb *user_function_call_jsonb(const UserFunction &function, Jsonb *argument) {
    NullableDatum arguments[1] = {{JsonbPGetDatum(argument), argument == nullptr}};
    return user_function_call_jsonb(function, arguments, 1);
}

bool user_function_call_number(const UserFunction &function, int32 first, Jsonb *second, double *result) {
    NullableDatum arguments[2] = {{Int32GetDatum(first), false}, {JsonbPGetDatum(second), second == nullptr}};
    bool is_null;
    Oid type;
    Datum value = call_function(function, arguments, 2, {"a number", is_number}, &is_null, &type);
    if (is_null)
        return false;
    switch (type) {
    case INT2OID:
        *result = DatumGetInt16(value);
        break;
    case INT4OID:
        *result = DatumGetInt32(value);
        break;
    case INT8OID:
        *result = (double)DatumGetInt64(value);
        break;
    case FLOAT4OID:
        *result = (double)DatumGetFloat4(value);
        break;
    case FLOAT8OID:
        *result = DatumGetFloat8(value);
        break;
    default: // too large is infinity, not an error: the caller clamps
        *result = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, value));
        break;
    }
    return true;
}

void user_function_transaction_start() {
    ConstraintsSetStmt *all = makeNode(ConstraintsSetStmt);
    all->constraints = NIL;
    all->deferred = false;
    AfterTriggerSetState(all);
}

const char *user_function_of_error(const ErrorData *error) {
    for (const char *line = error->context; line != nullptr && *line != '\0';) {
        const char *end = strchr(line, '\n');
        size_t len = end == nullptr ? strlen(line) : (size_t)(end - line);
        if (strncmp(line, context_prefix, strlen(context_prefix)) == 0)
            return pnstrdup(line + strlen(context_prefix), len - strlen(context_prefix));
        line = end == nullptr ? nullptr : end + 1;
    }
    return nullptr;
}

} // namespace whisperer::pg
