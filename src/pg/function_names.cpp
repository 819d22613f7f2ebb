#include "pg/prelude.hpp"

#include "pg/compat.hpp"
#include "pg/error_capture.hpp"
#include "pg/errors.hpp"
#include "pg/function_names.hpp"

extern "C" {
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "parser/parse_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"
}

namespace whisperer::pg {

namespace {

constexpr int max_arguments = 4;

struct UseRules {
    const char *argument;
    const char *signature; // for messages
    int argument_count;
    Oid arguments[max_arguments]; // InvalidOid: any composite type, or jsonb
};

const UseRules &rules_of(FunctionUse use) {
    static const UseRules serializer = {"serializer", "(row type or jsonb) returning jsonb", 1, {InvalidOid}};
    static const UseRules customizer = {"customizer", "(jsonb) returning jsonb", 1, {JSONBOID}};
    static const UseRules callback = {
        "callback", "(jsonb, text, jsonb, jsonb)", 4, {JSONBOID, TEXTOID, JSONBOID, JSONBOID}};
    static const UseRules countdown = {
        "countdown", "(integer, jsonb) returning a number", 2, {INT4OID, JSONBOID}};
    static const UseRules validator = {"validator", "(jsonb) returning jsonb", 1, {JSONBOID}};
    switch (use) {
    case FunctionUse::serializer:
        return serializer;
    case FunctionUse::customizer:
        return customizer;
    case FunctionUse::countdown:
        return countdown;
    case FunctionUse::validator:
        return validator;
    case FunctionUse::callback:
        break;
    }
    return callback;
}

// The text, taken apart.
struct GivenName {
    List *names; // of String
    bool typed;
    int type_count;
    Oid types[max_arguments];
};

[[noreturn]] void raise_malformed(const UseRules &rules, const char *name) {
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("%s: \"%s\" is not the name of a function", rules.argument, shortened(name)),
            errhint("Give 'schema.function', or with its argument types 'schema.function(type, ...)'."));
}

[[noreturn]] void raise_not_found(const UseRules &rules, const char *name, List *names) {
    // One of the name that takes something else is what was meant, more often than not.
    FuncCandidateList other = FuncnameGetCandidates(names, -1, NIL, false, false, false, true);
    const char *hint =
        other == nullptr
            ? "Give its schema, or set search_path so that it is found."
            : psprintf(
                  "There is %s; the types must be those looked for, and it must be a function that returns"
                  " one value.",
                  function_stored_name(other->oid));
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
            errmsg("%s: function %s does not exist", rules.argument, shortened(name)),
            errdetail("Looked for a function %s with the arguments %s.", shortened(name), rules.signature),
            errhint("%s", hint));
}

struct TypeName {
    char *text;
    Oid type;
};

void parse_type(void *argument) {
    TypeName *name = (TypeName *)argument;
    name->type = compat_parse_type(name->text);
}

// The types between the parentheses; false when the text is no list of types. Unknown types come as
// InvalidOid.
bool parse_types(char *list, GivenName *given) {
    for (char *part = list; part != nullptr;) {
        // No type that can occur here has a comma or a quoted parenthesis in its name but a perverse one.
        char *comma = strchr(part, ',');
        if (comma != nullptr)
            *comma = '\0';
        if (part[strspn(part, " \t\r\n")] == '\0')
            return false; // versions differ in what the parser makes of nothing
        TypeName name = {part, InvalidOid};
        CapturedError error;
        if (capture_error(parse_type, &name, &error))
            return false;
        // More types than any use takes are only counted.
        if (given->type_count < max_arguments)
            given->types[given->type_count] = name.type;
        given->type_count++;
        part = comma == nullptr ? nullptr : comma + 1;
    }
    return true;
}

GivenName parse_name(const UseRules &rules, const char *text) {
    GivenName given = {NIL, false, 0, {}};
    char *copy = pstrdup(text);
    char *open = strchr(copy, '(');
    if (open != nullptr) {
        char *close = strrchr(open, ')');
        if (close == nullptr || close[1 + strspn(close + 1, " \t\r\n")] != '\0')
            raise_malformed(rules, text);
        *open = *close = '\0';
        given.typed = true;
        if (!parse_types(open + 1, &given))
            raise_malformed(rules, text);
    }
    List *parts;
    if (!SplitIdentifierString(copy, '.', &parts) || list_length(parts) < 1 || list_length(parts) > 2)
        raise_malformed(rules, text);
    ListCell *cell;
    foreach (cell, parts)
        given.names = lappend(given.names, makeString((char *)lfirst(cell)));
    return given;
}

bool fits(const UseRules &rules, const GivenName &given, FuncCandidateList candidate) {
    if (candidate->nargs != rules.argument_count || (given.typed && given.type_count != candidate->nargs))
        return false;
    for (int i = 0; i < candidate->nargs; i++) {
        Oid type = candidate->args[i];
        if (given.typed && given.types[i] != type)
            return false;
        if (OidIsValid(rules.arguments[i]) ? type != rules.arguments[i]
                                           : type != JSONBOID && get_typtype(type) != TYPTYPE_COMPOSITE)
            return false;
    }
    return get_func_prokind(candidate->oid) == PROKIND_FUNCTION && !get_func_retset(candidate->oid);
}

void check_result(FunctionUse use, Oid function) {
    Oid result = getBaseType(get_func_rettype(function));
    if (use == FunctionUse::callback || (use != FunctionUse::countdown && result == JSONBOID) ||
        (use == FunctionUse::serializer && result == JSONOID))
        return;
    bool number = use == FunctionUse::countdown;
    if (number && (result == INT2OID || result == INT4OID || result == INT8OID || result == FLOAT4OID ||
                   result == FLOAT8OID || result == NUMERICOID))
        return;
    const char *wanted = number ? "a number" : "jsonb";
    ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
            errmsg("%s: function %s returns %s, not %s", rules_of(use).argument,
                   function_stored_name(function), format_type_be(result), wanted),
            errhint("Make it return %s.", wanted));
}

} // namespace

Oid function_find(FunctionUse use, const char *name) {
    const UseRules &rules = rules_of(use);
    GivenName given = parse_name(rules, name);
    Oid found = InvalidOid;
    for (FuncCandidateList candidate =
             FuncnameGetCandidates(given.names, rules.argument_count, NIL, false, false, false, true);
         candidate != nullptr; candidate = candidate->next) {
        if (!fits(rules, given, candidate))
            continue;
        if (OidIsValid(found))
            ereport(ERROR, errcode(ERRCODE_AMBIGUOUS_FUNCTION),
                    errmsg("%s: function name %s is not unique", rules.argument, shortened(name)),
                    errdetail("%s and %s both fit.", function_stored_name(found),
                              function_stored_name(candidate->oid)),
                    errhint("Give the argument type: '%s(...)'.", shortened(name)));
        found = candidate->oid;
    }
    if (!OidIsValid(found))
        raise_not_found(rules, name, given.names);
    // Another session's temporary schema will have this one's name some day.
    if (isAnyTempNamespace(get_func_namespace(found)))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("%s: function %s is a temporary one", rules.argument, shortened(name)),
                errhint("Make the function in a schema that stays."));
    check_result(use, found);
    return found;
}

void function_check_runner(FunctionUse use, Oid function, Oid runner) {
    const UseRules &rules = rules_of(use);
    if (!compat_may_execute(function, runner) || !compat_may_use_schema(get_func_namespace(function), runner))
        ereport(
            ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("%s: permission denied for function %s", rules.argument, function_stored_name(function)),
            errdetail("Role \"%s\", as which it would run, has no EXECUTE on it or no USAGE on its schema.",
                      GetUserNameFromId(runner, true)),
            errhint("Grant them to that role."));
}

char *function_stored_name(Oid function) {
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(tuple))
        elog(ERROR, "cache lookup failed for function %u", function);
    Form_pg_proc form = (Form_pg_proc)GETSTRUCT(tuple);
    StringInfoData name;
    initStringInfo(&name);
    appendStringInfoString(
        &name, quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname)));
    appendStringInfoChar(&name, '(');
    for (int i = 0; i < form->pronargs; i++) {
        Oid type = form->proargtypes.values[i];
        char *type_name = format_type_be_qualified(type);
        // Types of pg_catalog are always found first; without it the name reads as users write it.
        if (strncmp(type_name, "pg_catalog.", strlen("pg_catalog.")) == 0)
            type_name += strlen("pg_catalog.");
        appendStringInfo(&name, "%s%s", i == 0 ? "" : ", ", type_name);
    }
    appendStringInfoChar(&name, ')');
    ReleaseSysCache(tuple);
    return name.data;
}

} // namespace whisperer::pg
