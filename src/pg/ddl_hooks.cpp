#include "pg/prelude.hpp"

#include "pg/ddl_hooks.hpp"

#include "pg/compat.hpp"
#include "pg/prepared.hpp"
#include "pg/roster.hpp"
#include "pg/trigger_access.hpp"
#include "pg/wake.hpp"
#include "pg/worker_slots.hpp"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

// Our processes leave within a fraction of a second; after this PostgreSQL itself says who is in the way.
constexpr long leave_timeout_ms = 10000;

ProcessUtility_hook_type previous_utility = nullptr;
object_access_hook_type previous_object_access = nullptr;
bool bars_held = false;
bool bars_exit_registered = false;

// ---- Bars: from before the statement to the end of its transaction

void clear_bars() {
    if (!bars_held)
        return;
    bars_held = false;
    bar_clear_mine();
}

// Only when the transaction has ended is it known whether the database still is there, under which name and
// where.
void at_transaction(XactEvent event, void *) {
    if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
        clear_bars();
}

void at_exit(int, Datum) {
    clear_bars();
}

// The database is free of our processes when this returns, or leave_timeout_ms have passed.
void empty_database(Oid database) {
    if (!bars_exit_registered) {
        before_shmem_exit(at_exit, Datum(0));
        bars_exit_registered = true;
    }
    bars_held = true;
    if (bar_set(database))
        (void)bar_wait(database, leave_timeout_ms);
}

// ---- Who may: as PostgreSQL decides, so that nobody else can stop anybody's deliveries

bool may_create_databases() {
    if (superuser())
        return true;
    HeapTuple role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
    if (!HeapTupleIsValid(role))
        return false;
    bool result = reinterpret_cast<Form_pg_authid>(GETSTRUCT(role))->rolcreatedb;
    ReleaseSysCache(role);
    return result;
}

bool owns(Oid database) {
    return OidIsValid(database) && compat_owns_database(database, GetUserId());
}

bool is_template(Oid database) {
    HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
    if (!HeapTupleIsValid(tuple))
        return false;
    bool result = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple))->datistemplate;
    ReleaseSysCache(tuple);
    return result;
}

// The value of an option of CREATE or ALTER DATABASE; null if absent.
DefElem *find_option(List *options, const char *name) {
    ListCell *cell;
    foreach (cell, options) {
        auto *option = lfirst_node(DefElem, cell);
        if (strcmp(option->defname, name) == 0)
            return option;
    }
    return nullptr;
}

// The database that a session is connected to cannot be dropped, renamed or moved by it (PostgreSQL says so);
// it can be copied.

void before_drop(const DropdbStmt *statement) {
    Oid database = get_database_oid(statement->dbname, true);
    if (database != MyDatabaseId && owns(database))
        empty_database(database);
}

void before_rename(const RenameStmt *statement) {
    Oid database = get_database_oid(statement->subname, true);
    if (database != MyDatabaseId && owns(database) && may_create_databases())
        empty_database(database);
}

void before_alter(const AlterDatabaseStmt *statement) {
    Oid database = get_database_oid(statement->dbname, true);
    if (!owns(database))
        return;
    if (find_option(statement->options, "tablespace") == nullptr)
        wake_launcher_for(database); // connections may be allowed now, or no more
    else if (database != MyDatabaseId)
        empty_database(database);
}

void before_create(const CreatedbStmt *statement) {
    DefElem *option = find_option(statement->options, "template");
    const char *name = option != nullptr && option->arg != nullptr ? defGetString(option) : "template1";
    Oid source = get_database_oid(name, true);
    if (OidIsValid(source) && may_create_databases() && (is_template(source) || owns(source)))
        empty_database(source);
}

// Workers take the extension's lock, in share mode, for each transaction, and do not queue for it. PostgreSQL
// gives everybody the exclusive one: it looks whether the role may drop the extension when it has it, and not
// at all whether it may make something of its own depend on it, which then holds the lock until its
// transaction ends.
void require_extension_owner() {
    Oid extension = get_extension_oid("whisperer", true);
    if (OidIsValid(extension) && !compat_owns_extension(extension, GetUserId()))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_EXTENSION, "whisperer");
}

void before_drop_objects(const DropStmt *statement) {
    ListCell *name;
    if (statement->removeType != OBJECT_EXTENSION)
        return;
    foreach (name, statement->objects)
        if (strcmp(strVal(lfirst(name)), "whisperer") == 0)
            require_extension_owner();
}

void before_depends(const AlterObjectDependsStmt *statement) {
    if (strcmp(strVal(statement->extname), "whisperer") == 0)
        require_extension_owner();
}

// ---- What concerns the launcher

// SET or RESET of one of our settings, or RESET ALL.
bool is_our_setting(const VariableSetStmt *statement) {
    return statement->kind == VAR_RESET_ALL ||
           (statement->name != nullptr && pg_strncasecmp(statement->name, "whisperer.", 10) == 0);
}

void after_create(const CreatedbStmt *statement) {
    Oid database = get_database_oid(statement->dbname, true);
    if (OidIsValid(database))
        wake_launcher_for(database);
}

void after_database_set(const AlterDatabaseSetStmt *statement) {
    if (is_our_setting(statement->setstmt))
        wake_launcher_for(get_database_oid(statement->dbname, true));
}

// Workers are the bootstrap superuser, whose settings and those of all roles they take over. Everybody may
// change the own role's.
bool workers_take_over(const RoleSpec *role) {
    return role == nullptr || get_rolespec_oid(role, true) == BOOTSTRAP_SUPERUSERID;
}

void after_role_set(const AlterRoleSetStmt *statement) {
    if (is_our_setting(statement->setstmt) && workers_take_over(statement->role))
        wake_launcher_for(statement->database == nullptr ? InvalidOid
                                                         : get_database_oid(statement->database, true));
}

bool commits_prepared(const TransactionStmt *statement) {
    return statement->kind == TRANS_STMT_COMMIT_PREPARED;
}

void before_statement(Node *statement) {
    switch (nodeTag(statement)) {
    case T_DropdbStmt:
        before_drop(reinterpret_cast<DropdbStmt *>(statement));
        break;
    case T_RenameStmt:
        if (reinterpret_cast<RenameStmt *>(statement)->renameType == OBJECT_DATABASE)
            before_rename(reinterpret_cast<RenameStmt *>(statement));
        break;
    case T_AlterDatabaseStmt:
        before_alter(reinterpret_cast<AlterDatabaseStmt *>(statement));
        break;
    case T_CreatedbStmt:
        before_create(reinterpret_cast<CreatedbStmt *>(statement));
        break;
    case T_TransactionStmt:
        if (commits_prepared(reinterpret_cast<TransactionStmt *>(statement)))
            prepared_watch();
        break;
    case T_DropStmt:
        before_drop_objects(reinterpret_cast<DropStmt *>(statement));
        break;
    case T_AlterObjectDependsStmt:
        before_depends(reinterpret_cast<AlterObjectDependsStmt *>(statement));
        break;
    default:
        break;
    }
}

void after_statement(Node *statement) {
    switch (nodeTag(statement)) {
    case T_CreatedbStmt:
        after_create(reinterpret_cast<CreatedbStmt *>(statement));
        break;
    case T_AlterDatabaseSetStmt:
        after_database_set(reinterpret_cast<AlterDatabaseSetStmt *>(statement));
        break;
    case T_AlterRoleSetStmt:
        after_role_set(reinterpret_cast<AlterRoleSetStmt *>(statement));
        break;
    case T_AlterExtensionStmt: // an update may change what the workers have prepared
        if (strcmp(reinterpret_cast<AlterExtensionStmt *>(statement)->extname, "whisperer") == 0)
            wake_launcher_for(MyDatabaseId);
        break;
    case T_TransactionStmt:
        if (commits_prepared(reinterpret_cast<TransactionStmt *>(statement)))
            wake_prepared();
        break;
    default:
        break;
    }
}

// Statements that PostgreSQL refuses inside a transaction block, where emptying the database would be for
// nothing.
bool refused_in_block(Node *statement) {
    return IsA(statement, DropdbStmt) || IsA(statement, CreatedbStmt) ||
           (IsA(statement, AlterDatabaseStmt) &&
            find_option(castNode(AlterDatabaseStmt, statement)->options, "tablespace") != nullptr);
}

// What may free its own statement, which is not to be looked at afterwards.
bool ends_transaction(Node *statement) {
    return IsA(statement, TransactionStmt) && !commits_prepared(castNode(TransactionStmt, statement));
}

void utility(PlannedStmt *planned, const char *query, bool read_only_tree, ProcessUtilityContext context,
             ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *destination,
             QueryCompletion *completion) {
    Node *statement = planned->utilityStmt;
    bool ours = roster != nullptr && !RecoveryInProgress();
    bool gone = ends_transaction(statement);
    if (ours &&
        !(refused_in_block(statement) && (context != PROCESS_UTILITY_TOPLEVEL || IsTransactionBlock())))
        before_statement(statement);
    if (previous_utility != nullptr)
        previous_utility(planned, query, read_only_tree, context, parameters, environment, destination,
                         completion);
    else
        standard_ProcessUtility(planned, query, read_only_tree, context, parameters, environment, destination,
                                completion);
    if (ours && !gone)
        after_statement(statement);
}

// ---- CREATE and DROP EXTENSION, in whatever way

// The catalog's row was inserted by this very command, so only SnapshotSelf sees it.
bool new_extension_is_ours(Oid extension) {
    Relation relation = table_open(ExtensionRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
    SysScanDesc scan = systable_beginscan(relation, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    bool result =
        HeapTupleIsValid(tuple) &&
        strcmp(NameStr(reinterpret_cast<Form_pg_extension>(GETSTRUCT(tuple))->extname), "whisperer") == 0;
    systable_endscan(scan);
    table_close(relation, AccessShareLock);
    return result;
}

void object_access(ObjectAccessType access, Oid catalog, Oid object, int sub_object, void *argument) {
    if (previous_object_access != nullptr)
        previous_object_access(access, catalog, object, sub_object, argument);
    if (catalog == TriggerRelationId && access == OAT_POST_CREATE)
        check_new_trigger(object);
    if (catalog != ExtensionRelationId || roster == nullptr)
        return;
    if (access == OAT_POST_CREATE) {
        if (new_extension_is_ours(object))
            wake_launcher_for(MyDatabaseId);
    } else if (access == OAT_DROP) {
        const char *name = get_extension_name(object);
        if (name != nullptr && strcmp(name, "whisperer") == 0)
            wake_launcher_for(MyDatabaseId);
    }
}

} // namespace

void ddl_hooks_init() {
    previous_utility = ProcessUtility_hook;
    ProcessUtility_hook = utility;
    previous_object_access = object_access_hook;
    object_access_hook = object_access;
    RegisterXactCallback(at_transaction, nullptr);
}

} // namespace whisperer::pg
