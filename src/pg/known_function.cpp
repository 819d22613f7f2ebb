#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/error_capture.hpp"
#include "pg/known_function.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"
}

namespace whisperer::pg {

namespace {

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

struct Search {
    const char *name;
    Oid found;
};

void search(void *argument) {
    Search *name = (Search *)argument;
    name->found = DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(name->name)));
}

// Those of that schema and name with one argument, whatever its type.
FuncCandidateList namesakes(const char *stored_name) {
    char *name = pstrdup(stored_name);
    char *end = name;
    for (bool quoted = false; *end != '\0' && (quoted || *end != '('); end++)
        quoted ^= *end == '"';
    *end = '\0';
    List *parts;
    List *names = NIL;
    ListCell *cell;
    if (!SplitIdentifierString(name, '.', &parts))
        return nullptr;
    foreach (cell, parts)
        names = lappend(names, makeString((char *)lfirst(cell)));
    return FuncnameGetCandidates(names, 1, NIL, false, false, false, true);
}

// Whoever may make functions in that schema could make one for a table of his own: it has to be of somebody
// who has the runner's rights anyway.
bool may_run_as(Oid function, Oid runner) {
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(tuple))
        return false;
    Oid owner = ((Form_pg_proc)GETSTRUCT(tuple))->proowner;
    ReleaseSysCache(tuple);
    return has_privs_of_role(owner, runner);
}

// The one that takes the row: of its own type, or else the only one of a table that it inherits from.
Oid find_by_row(const UserFunction &function) {
    Oid found = InvalidOid;
    int fitting = 0;
    if (!OidIsValid(function.row))
        return InvalidOid;
    for (FuncCandidateList one = namesakes(function.name); one != nullptr; one = one->next) {
        if (!may_run_as(one->oid, function.runner))
            continue;
        if (one->args[0] == function.row)
            return one->oid;
        if (type_is_rowtype(one->args[0]) && typeInheritsFrom(function.row, one->args[0])) {
            found = one->oid;
            fitting++;
        }
    }
    return fitting == 1 ? found : InvalidOid;
}

// The function of that name; everything in it but types of pg_catalog is qualified, and search_path is
// pinned.
Oid resolve(const UserFunction &function, bool *by_row) {
    Search name = {function.name, InvalidOid};
    CapturedError error;
    *by_row = false;
    if (!capture_error(search, &name, &error))
        return name.found;
    // "Does not exist" may be said of the schema, a type, or the function.
    if (ERRCODE_TO_CATEGORY(error.sqlstate) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
        error.sqlstate != ERRCODE_UNDEFINED_SCHEMA)
        ereport(ERROR, errcode(error.sqlstate),
                errmsg("%s: cannot look up function %s", function.what, function.name),
                errdetail_internal("%s", error.message));
    Oid found = find_by_row(function);
    if (!OidIsValid(found))
        raise_function_gone(function, error.sqlstate == ERRCODE_UNDEFINED_FUNCTION ? nullptr : error.message);
    *by_row = true;
    return found;
}

void read_function(const UserFunction &function, KnownFunction *known) {
    uint64 generation = catalogue_generation;
    bool by_row;
    known->generation = 0;
    known->oid = resolve(function, &by_row);
    known->row = by_row ? function.row : InvalidOid;
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(known->oid));
    if (!HeapTupleIsValid(tuple))
        raise_function_gone(function);
    Form_pg_proc form = (Form_pg_proc)GETSTRUCT(tuple);
    known->schema = form->pronamespace;
    known->types = {form->pronargs, form->pronargs > 0 ? form->proargtypes.values[0] : InvalidOid,
                    getBaseType(form->prorettype)};
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

bool is_current(const KnownFunction *known, const UserFunction &function) {
    return known->generation == catalogue_generation &&
           (!OidIsValid(known->row) || known->row == function.row);
}

// By which another one is named.
const char *naming_function(const UserFunction &function) {
    if (strcmp(function.what, "serializer") == 0 || strcmp(function.what, "customizer") == 0)
        return "update_event_type";
    return strcmp(function.what, "callback") == 0 ? "update_subscription" : "register_countdown";
}

} // namespace

void raise_function_gone(const UserFunction &function, const char *missing) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
            errmsg("%s: function %s does not exist", function.what, function.name),
            missing == nullptr
                ? errdetail("It was there when it was named, and has been dropped or renamed since.")
                : errdetail("It was there when it was named, but now %s: dropped or renamed since.", missing),
            errhint("Make it again, or name another with whisperer.%s().", naming_function(function)));
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
    if (!is_current(known, function))
        read_function(function, known);
    return known;
}

FmgrInfo *known_function_lookup(KnownFunction *known, bool *shared) {
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

const KnownFunction *known_function_kept(const UserFunction &function) {
    const KnownFunction *known = known_by_name(function.name);
    return known != nullptr && is_current(known, function) ? known : nullptr;
}

} // namespace whisperer::pg
