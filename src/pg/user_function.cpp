#include "pg/prelude.hpp"

#include "pg/advisory_locks.hpp"
#include "pg/compat.hpp"
#include "pg/error_capture.hpp"
#include "pg/neutral_settings.hpp"
#include "pg/user_function.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *context_prefix = "whisperer ";

// ---- What is known of a stored name, kept for the session

struct KnownFunction {
    KnownFunction *next;
    char *name;
    uint64 generation; // of the catalogue it was read from
    Oid oid;
    Oid schema;
    UserFunctionTypes types;
    // The look-up of the call, with what the function's language keeps in it. Some languages keep the state
    // of a call there: it is used again only within the subtransaction that made it (after an error that one
    // is gone), and not by a call within the call.
    MemoryContext memory;
    FmgrInfo lookup;
    bool looked_up;
    bool in_use;
    LocalTransactionId transaction;
    SubTransactionId subtransaction;
};

KnownFunction *known_functions = nullptr;
uint64 catalogue_generation = 1;

void catalogue_changed(Datum, int, uint32) {
    catalogue_generation++;
}

void watch_catalogue() {
    static bool watching = false;
    if (watching)
        return;
    CacheRegisterSyscacheCallback(PROCOID, catalogue_changed, (Datum)0);
    CacheRegisterSyscacheCallback(NAMESPACEOID, catalogue_changed, (Datum)0);
    CacheRegisterSyscacheCallback(TYPEOID, catalogue_changed, (Datum)0);
    watching = true;
}

[[noreturn]] void raise_gone(const UserFunction &function) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
            errmsg("%s: function %s does not exist", function.what, function.name),
            errdetail("It was there when it was named, and has been dropped or renamed since."),
            errhint("Make it again, or name another."));
}

struct Search {
    const char *name;
    Oid found;
};

void search(void *argument) {
    Search *name = (Search *)argument;
    name->found = DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(name->name)));
}

// The function of that name; everything in it but types of pg_catalog is qualified, and search_path is
// pinned.
Oid resolve(const UserFunction &function) {
    Search name = {function.name, InvalidOid};
    CapturedError error;
    // "Does not exist" may be said of the schema, a type, or the function.
    if (capture_error(search, &name, &error)) {
        if (ERRCODE_TO_CATEGORY(error.sqlstate) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
            error.sqlstate == ERRCODE_UNDEFINED_SCHEMA)
            raise_gone(function);
        ereport(ERROR, errcode(error.sqlstate),
                errmsg("%s: cannot look up function %s", function.what, function.name),
                errdetail_internal("%s", error.message));
    }
    return name.found;
}

void read_function(const UserFunction &function, KnownFunction *known) {
    uint64 generation = catalogue_generation;
    known->generation = 0;
    known->oid = resolve(function);
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(known->oid));
    if (!HeapTupleIsValid(tuple))
        raise_gone(function);
    Form_pg_proc form = (Form_pg_proc)GETSTRUCT(tuple);
    known->schema = form->pronamespace;
    known->types = {form->pronargs, form->pronargs > 0 ? form->proargtypes.values[0] : InvalidOid,
                    form->prorettype};
    bool callable = form->prokind == PROKIND_FUNCTION && !form->proretset;
    ReleaseSysCache(tuple);
    if (!callable)
        ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
                errmsg("%s: %s is not a function that returns one value", function.what, function.name),
                errhint("Name another."));
    // A temporary schema has the same name for one session after the other, whoever they are.
    if (isAnyTempNamespace(known->schema))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("%s: %s is a temporary function", function.what, function.name),
                errhint("Make the function in a schema that stays."));
    known->looked_up = false;
    known->generation = generation;
}

KnownFunction *known_by_name(const char *name) {
    KnownFunction *known = known_functions;
    while (known != nullptr && strcmp(known->name, name) != 0)
        known = known->next;
    return known;
}

KnownFunction *known_function(const UserFunction &function) {
    KnownFunction *known = known_by_name(function.name);
    if (known == nullptr) {
        watch_catalogue();
        known = (KnownFunction *)MemoryContextAllocZero(TopMemoryContext, sizeof(KnownFunction));
        known->name = MemoryContextStrdup(TopMemoryContext, function.name);
        known->memory =
            AllocSetContextCreate(TopMemoryContext, "whisperer user function", ALLOCSET_SMALL_SIZES);
        known->next = known_functions;
        known_functions = known;
    }
    if (known->generation != catalogue_generation)
        read_function(function, known);
    return known;
}

// The look-up to call by; *shared when it is the one kept.
FmgrInfo *call_lookup(KnownFunction *known, bool *shared) {
    bool same_transaction = known->transaction == compat_local_transaction();
    bool same = same_transaction && known->subtransaction == GetCurrentSubTransactionId();
    *shared = !(known->in_use && same_transaction);
    if (!*shared) {
        FmgrInfo *own = (FmgrInfo *)palloc(sizeof(FmgrInfo));
        fmgr_info(known->oid, own);
        return own;
    }
    if (!known->looked_up || !same) {
        known->looked_up = false;
        MemoryContextReset(known->memory);
        fmgr_info_cxt(known->oid, &known->lookup, known->memory);
        known->transaction = compat_local_transaction();
        known->subtransaction = GetCurrentSubTransactionId();
        known->looked_up = true;
    }
    return &known->lookup;
}

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
        raise_gone(function);
    check_runner(function, known);
    check_result(function, known, wanted);
    *result_type = known->types.result;
    bool shared;
    FmgrInfo *lookup = call_lookup(known, &shared);
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
    KnownFunction *known = known_by_name(function.name);
    if (known != nullptr && known->generation == catalogue_generation)
        return known->types;
    Surroundings around;
    UserFunctionTypes types = enter(&around, function)->types;
    leave(&around);
    return types;
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
