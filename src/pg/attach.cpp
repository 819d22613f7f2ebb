// whisperer.attach(), detach(): row triggers for tables.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/registry.hpp"
#include "pg/subscription_fields.hpp"
#include "pg/trigger_condition.hpp"

extern "C" {
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *name_prefix = "whisperer_";

// whisperer_<event type>, shortened with a hash where a name may not be that long.
char *trigger_name(const char *event_type) {
    char *name = psprintf("%s%s", name_prefix, event_type);
    int len = (int)strlen(name);
    if (len < NAMEDATALEN)
        return name;
    uint32 hash = hash_bytes((const unsigned char *)event_type, (int)strlen(event_type));
    constexpr int hash_len = 9; // an underscore and eight digits
    int kept = pg_mbcliplen(name, len, NAMEDATALEN - 1 - hash_len);
    return psprintf("%.*s_%08x", kept, name, hash);
}

Oid whisperer_schema() {
    return get_namespace_oid("whisperer", false);
}

Oid trigger_function() {
    return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("deliver_event_trigger"),
                           PointerGetDatum(buildoidvector(nullptr, 0)), ObjectIdGetDatum(whisperer_schema()));
}

const char *relation_text(Oid relation) {
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
                                      get_rel_name(relation));
}

[[noreturn]] void raise_no_relation(Oid relation) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation: there is none with OID %u", relation),
            errhint("Give the name of a table, such as 'public.package'."));
}

[[noreturn]] void raise_no_row_triggers(Oid relation) {
    ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
            errmsg("relation: %s cannot have AFTER triggers for each row", relation_text(relation)),
            errdetail("It is not a table, partitioned table or foreign table."),
            errhint("Give a table; for a view, the tables that it reads."));
}

// Locks the table against other changes of its triggers, after making sure that the caller may.
void lock_table(Oid caller, Oid relation) {
    char kind = get_rel_relkind(relation);
    if (kind == '\0')
        raise_no_relation(relation);
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_FOREIGN_TABLE)
        raise_no_row_triggers(relation);
    if (get_rel_namespace(relation) == whisperer_schema())
        ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
                errmsg("relation: %s is one of whisperer's own tables", relation_text(relation)),
                errhint("Events about events would never end."));
    if (pg_class_aclcheck(relation, caller, ACL_TRIGGER) != ACLCHECK_OK)
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("permission denied for table %s", relation_text(relation)),
                errdetail("Role \"%s\" needs TRIGGER on it.", GetUserNameFromId(caller, false)),
                errhint("GRANT TRIGGER ON %s TO ...", relation_text(relation)));
    LockRelationOid(relation, ShareRowExclusiveLock);
    if (get_rel_relkind(relation) == '\0')
        raise_no_relation(relation); // dropped while we waited
}

struct AttachedTriggers {
    Oid own;             // as attach() makes it; InvalidOid: there is none
    bool inherited;      // a copy of such a one on the partitioned table above
    const char *by_hand; // the name of another one that raises this event type; null: there is none
};

// The triggers on the locked table that raise this event type. Those made by hand are their makers': TRIGGER
// on the table, which is all that the caller needs, is no right to drop them. What attach() makes is known by
// its name, which a dump keeps.
AttachedTriggers find_attached(Oid relation, const char *event_type) {
    AttachedTriggers found = {InvalidOid, false, nullptr};
    Oid function = trigger_function();
    const char *name = trigger_name(event_type);
    Relation table = relation_open(relation, NoLock);
    for (int i = 0; table->trigdesc != nullptr && i < table->trigdesc->numtriggers; i++) {
        const Trigger &trigger = table->trigdesc->triggers[i];
        if (trigger.tgfoid != function || trigger.tgnargs < 1 || strcmp(trigger.tgargs[0], event_type) != 0)
            continue;
        if (strcmp(trigger.tgname, name) != 0 || !TRIGGER_FOR_ROW(trigger.tgtype) ||
            OidIsValid(trigger.tgconstraint))
            found.by_hand = pstrdup(trigger.tgname);
        else if (trigger.tgisclone)
            found.inherited = true;
        else
            found.own = trigger.tgoid;
    }
    relation_close(table, NoLock);
    return found;
}

// Not by DROP TRIGGER, for which the caller would have to own the table: TRIGGER on it is what this takes.
void drop_trigger(Oid trigger) {
    ObjectAddress address;
    ObjectAddressSet(address, TriggerRelationId, trigger);
    performDeletion(&address, DROP_RESTRICT, 0);
    CommandCounterIncrement();
}

// Two triggers: each row would be two events.
void tell_by_hand(Oid relation, const char *event_type, const char *trigger) {
    ereport(NOTICE,
            errmsg("trigger \"%s\" on %s raises event type \"%s\", too", trigger, relation_text(relation),
                   event_type),
            errdetail("It was not made by whisperer.attach(), which leaves it as it is."),
            errhint("If that is not meant: DROP TRIGGER %s ON %s.", quote_identifier(trigger),
                    relation_text(relation)));
}

[[noreturn]] void raise_inherited(Oid relation, const char *event_type) {
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("event type \"%s\" is attached to a partitioned table of which %s is a partition",
                   event_type, relation_text(relation)),
            errhint("Attach it to, or detach it from, that table."));
}

[[noreturn]] void raise_not_attached(Oid relation, const char *event_type, const char *by_hand) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("event type \"%s\" is not attached to %s", shortened(event_type), relation_text(relation)),
            by_hand == nullptr
                ? 0
                : errdetail("Trigger \"%s\", which raises it, was not made by whisperer.attach().", by_hand),
            by_hand == nullptr ? errhint("whisperer.attach() attaches it; \\d shows a table's triggers.")
                               : errhint("Who owns the table removes it: DROP TRIGGER %s ON %s.",
                                         quote_identifier(by_hand), relation_text(relation)));
}

// ---- attach

struct AttachArguments {
    Oid relation;
    const char *event_type;
    unsigned operations;
    const char *condition;     // may be null
    List *columns;             // of char *
    const char *config_filter; // may be null
};

List *read_columns(ArrayType *array) {
    Datum *values;
    bool *nulls;
    int count;
    List *columns = NIL;
    deconstruct_array(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &values, &nulls, &count);
    for (int i = 0; i < count; i++) {
        if (nulls[i])
            raise_null_argument("columns: an element",
                                "Give names of columns, such as ARRAY['price', 'stock'].");
        columns = lappend(columns, pstrdup(NameStr(*DatumGetName(values[i]))));
    }
    if (count == 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("columns: the array is empty"),
                errhint("Give at least one column, or NULL for updates of any."));
    return columns;
}

AttachArguments read_attach_arguments(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(0))
        raise_null_argument("relation", "Give a table, such as 'public.package'.");
    if (PG_ARGISNULL(1))
        raise_null_argument("event_type", "Give the name of an event type.");
    if (PG_ARGISNULL(2))
        raise_null_argument("operation", "Give INSERT, UPDATE, DELETE, or several joined by OR.");
    AttachArguments arguments = {PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(1)), 0, nullptr, NIL,
                                 nullptr};
    check_event_type_name(arguments.event_type);
    arguments.operations = parse_trigger_operations(text_to_cstring(PG_GETARG_TEXT_PP(2)));
    if (!PG_ARGISNULL(3)) {
        arguments.condition = text_to_cstring(PG_GETARG_TEXT_PP(3));
        check_trigger_condition(arguments.condition);
    }
    if (!PG_ARGISNULL(4)) {
        arguments.columns = read_columns(PG_GETARG_ARRAYTYPE_P(4));
        if ((arguments.operations & ON_UPDATE) == 0)
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("columns: \"%s\" is given, but operation has no UPDATE",
                           (char *)linitial(arguments.columns)),
                    errhint("Leave out columns, or make operation UPDATE."));
    }
    if (!PG_ARGISNULL(5)) {
        Jsonb *filter = PG_GETARG_JSONB_P(5);
        check_config_filter(filter);
        arguments.config_filter = JsonbToCString(nullptr, &filter->root, (int)VARSIZE(filter));
    }
    return arguments;
}

void append_operations(StringInfo sql, const AttachArguments &arguments) {
    const char *separator = "";
    if ((arguments.operations & ON_INSERT) != 0) {
        appendStringInfoString(sql, "INSERT");
        separator = " OR ";
    }
    if ((arguments.operations & ON_DELETE) != 0) {
        appendStringInfo(sql, "%sDELETE", separator);
        separator = " OR ";
    }
    if ((arguments.operations & ON_UPDATE) == 0)
        return;
    appendStringInfo(sql, "%sUPDATE", separator);
    ListCell *cell;
    foreach (cell, arguments.columns)
        appendStringInfo(sql, "%s%s", cell == list_head(arguments.columns) ? " OF " : ", ",
                         quote_identifier((char *)lfirst(cell)));
}

const char *create_statement(const AttachArguments &arguments, const char *name) {
    StringInfoData sql;
    initStringInfo(&sql);
    appendStringInfo(&sql, "CREATE TRIGGER %s AFTER ", quote_identifier(name));
    append_operations(&sql, arguments);
    appendStringInfo(&sql, " ON %s FOR EACH ROW", relation_text(arguments.relation));
    if (arguments.condition != nullptr)
        appendStringInfo(&sql, " WHEN (\n%s\n)", arguments.condition);
    appendStringInfo(&sql, " EXECUTE FUNCTION whisperer.deliver_event_trigger(%s",
                     quote_literal_cstr(arguments.event_type));
    if (arguments.config_filter != nullptr)
        appendStringInfo(&sql, ", %s", quote_literal_cstr(arguments.config_filter));
    appendStringInfoChar(&sql, ')');
    return sql.data;
}

// As the caller, so that PostgreSQL judges what the condition and the columns may be.
void create_trigger(const char *sql) {
    int rc = SPI_connect();
    if (rc != SPI_OK_CONNECT)
        elog(ERROR, "whisperer could not connect to SPI: %s", SPI_result_code_string(rc));
    rc = SPI_execute(sql, false, 0);
    if (rc < 0)
        elog(ERROR, "whisperer could not create the trigger: %s", SPI_result_code_string(rc));
    SPI_finish();
}

// Registered from here to the end of the transaction, if need be and the caller may.
void require_event_type(Oid caller, const char *event_type) {
    InternalSql internal;
    internal_begin(&internal);
    if (!event_type_hold(event_type)) {
        if (!access_has(caller, Access::admin, event_type))
            raise_no_event_type(event_type);
        event_type_register(event_type, caller, {nullptr, nullptr, nullptr});
    }
    internal_end(&internal);
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.attach(relation, event_type, operation, condition, columns, config_filter)
WHISPERER_SQL_FUNCTION(whisperer_attach) {
    Oid caller = GetUserId();
    AttachArguments arguments = read_attach_arguments(fcinfo);
    access_check(caller, Access::deliver, arguments.event_type);
    require_writable("whisperer.attach()");
    lock_table(caller, arguments.relation);
    AttachedTriggers attached = find_attached(arguments.relation, arguments.event_type);
    if (attached.inherited)
        raise_inherited(arguments.relation, arguments.event_type);
    require_event_type(caller, arguments.event_type);
    if (OidIsValid(attached.own))
        drop_trigger(attached.own);
    if (attached.by_hand != nullptr)
        tell_by_hand(arguments.relation, arguments.event_type, attached.by_hand);
    const char *name = trigger_name(arguments.event_type);
    create_trigger(create_statement(arguments, name));
    PG_RETURN_TEXT_P(cstring_to_text(name));
}

// whisperer.detach(relation, event_type)
WHISPERER_SQL_FUNCTION(whisperer_detach) {
    Oid caller = GetUserId();
    if (PG_ARGISNULL(0))
        raise_null_argument("relation", "Give a table, such as 'public.package'.");
    if (PG_ARGISNULL(1))
        raise_null_argument("event_type", "Give the name of an event type.");
    Oid relation = PG_GETARG_OID(0);
    const char *event_type = text_to_cstring(PG_GETARG_TEXT_PP(1));
    check_event_type_name(event_type);
    access_check(caller, Access::deliver, event_type);
    require_writable("whisperer.detach()");
    lock_table(caller, relation);
    AttachedTriggers attached = find_attached(relation, event_type);
    if (!OidIsValid(attached.own) && attached.inherited)
        raise_inherited(relation, event_type);
    if (!OidIsValid(attached.own))
        raise_not_attached(relation, event_type, attached.by_hand);
    drop_trigger(attached.own);
    PG_RETURN_VOID();
}
