#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/error_capture.hpp"
#include "pg/known_function.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
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

// The function of that name; everything in it but types of pg_catalog is qualified, and search_path is
// pinned.
Oid resolve(const UserFunction &function) {
    Search name = {function.name, InvalidOid};
    CapturedError error;
    // "Does not exist" may be said of the schema, a type, or the function.
    if (capture_error(search, &name, &error)) {
        if (ERRCODE_TO_CATEGORY(error.sqlstate) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
            error.sqlstate == ERRCODE_UNDEFINED_SCHEMA)
            raise_function_gone(function);
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
        raise_function_gone(function);
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

} // namespace

void raise_function_gone(const UserFunction &function) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
            errmsg("%s: function %s does not exist", function.what, function.name),
            errdetail("It was there when it was named, and has been dropped or renamed since."),
            errhint("Make it again, or name another."));
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

const KnownFunction *known_function_kept(const char *name) {
    const KnownFunction *known = known_by_name(name);
    return known != nullptr && known->generation == catalogue_generation ? known : nullptr;
}

} // namespace whisperer::pg
