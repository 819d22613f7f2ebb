// Every difference between PostgreSQL versions, each in the newest signature, each with its reason.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "access/genam.h"
#include "access/transam.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "common/base64.h"
#include "executor/executor.h"
#include "parser/parse_type.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"
}

#if PG_VERSION_NUM >= 160000
// 16 moved the VAR… macros out of postgres.h.
extern "C" {
#include "nodes/miscnodes.h"
#include "varatt.h"
}
#endif

#if PG_VERSION_NUM >= 180000
// 18 moved wait event sets out of latch.h.
extern "C" {
#include "storage/waiteventset.h"
}
#endif

#if PG_VERSION_NUM < 150000
#error "whisperer needs PostgreSQL 15 or newer"
#endif

namespace whisperer::pg {

// 16 replaced the pg_…_ownercheck functions by one that takes the catalog.
inline bool compat_owns_database(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(DatabaseRelationId, database, role);
#else
    return pg_database_ownercheck(database, role);
#endif
}

inline bool compat_owns_extension(Oid extension, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(ExtensionRelationId, extension, role);
#else
    return pg_extension_ownercheck(extension, role);
#endif
}

// 16 replaced the pg_…_aclcheck functions by one that takes the catalog.
inline bool compat_may_execute(Oid function, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
    return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

inline bool compat_may_use_schema(Oid schema, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK;
#else
    return pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK;
#endif
}

// The type of that name, InvalidOid if there is none; raises when the text cannot be a type's name. 16 made
// that softer, with a further argument.
inline Oid compat_parse_type(const char *text) {
    Oid type = InvalidOid;
    int32 modifier;
#if PG_VERSION_NUM >= 160000
    ErrorSaveContext unknown = {T_ErrorSaveContext, false, false, nullptr};
    (void)parseTypeString(text, &type, &modifier, (Node *)&unknown);
#else
    parseTypeString(text, &type, &modifier, true);
#endif
    return type;
}

// Memory for the `extra` of a setting's check hook. 16 made the settings' own allocator public and frees with
// it; before, it is the C library's.
inline void *compat_guc_malloc(size_t size) {
#if PG_VERSION_NUM >= 160000
    return guc_malloc(LOG, size);
#else
    return malloc(size);
#endif
}

inline void compat_guc_free(void *memory) {
#if PG_VERSION_NUM >= 160000
    guc_free(memory);
#else
    free(memory);
#endif
}

// 17 lets extensions name their wait events; before, pg_stat_activity says "Extension". `cache` starts as 0.
inline uint32 compat_wait_event(uint32 *cache, const char *name) {
    if (*cache == 0) {
#if PG_VERSION_NUM >= 170000
        *cache = WaitEventExtensionNew(name);
#else
        (void)name;
        *cache = PG_WAIT_EXTENSION;
#endif
    }
    return *cache;
}

// The oldest transaction the commit log still knows; read it under XactTruncationLock. 17 renamed the
// structure.
inline TransactionId compat_oldest_clog_xid() {
#if PG_VERSION_NUM >= 170000
    return TransamVariables->oldestClogXid;
#else
    return ShmemVariableCache->oldestClogXid;
#endif
}

// The entry after `previous` (null: the first) in this process's list of locks of one partition of the lock
// table, whose lock is held. 16 changed the kind of the lists.
inline PROCLOCK *compat_next_own_lock(int partition, PROCLOCK *previous) {
#if PG_VERSION_NUM >= 160000
    dlist_head *list = &MyProc->myProcLocks[partition];
    dlist_node *node = previous == nullptr ? &list->head : &previous->procLink;
    if (dlist_is_empty(list) || (previous != nullptr && !dlist_has_next(list, node)))
        return nullptr;
    // dlist_container() checks types by a builtin that C++ does not have.
    return (PROCLOCK *)((char *)node->next - offsetof(PROCLOCK, procLink));
#else
    SHM_QUEUE *list = &MyProc->myProcLocks[partition];
    return (PROCLOCK *)SHMQueueNext(list, previous == nullptr ? list : &previous->procLink,
                                    offsetof(PROCLOCK, procLink));
#endif
}

// The number of this process's transaction, which no other of its transactions has. 17 moved it.
inline LocalTransactionId compat_local_transaction() {
#if PG_VERSION_NUM >= 170000
    return MyProc->vxid.lxid;
#else
    return MyProc->lxid;
#endif
}

// Takes a look without the partition's lock: of advisory locks only this process makes and removes its own.
inline bool compat_no_own_locks(int partition) {
#if PG_VERSION_NUM >= 160000
    return dlist_is_empty(&MyProc->myProcLocks[partition]);
#else
    return SHMQueueEmpty(&MyProc->myProcLocks[partition]);
#endif
}

// A wait event set that lives as long as the process. 17 ties sets to a resource owner (null: none) instead
// of a memory context.
inline WaitEventSet *compat_create_wait_event_set(int events) {
#if PG_VERSION_NUM >= 170000
    return CreateWaitEventSet(nullptr, events);
#else
    return CreateWaitEventSet(TopMemoryContext, events);
#endif
}

// 18 calls what is encoded uint8.
inline int compat_base64_encode(const char *bytes, int length, char *text, int room) {
#if PG_VERSION_NUM >= 180000
    return pg_b64_encode((const uint8 *)bytes, length, text, room);
#else
    return pg_b64_encode(bytes, length, text, room);
#endif
}

// Index entries of a row just inserted. 16 can leave out all but summarizing indexes, for updates.
inline void compat_insert_index_entries(ResultRelInfo *target, TupleTableSlot *row, EState *executor) {
#if PG_VERSION_NUM >= 160000
    (void)ExecInsertIndexTuples(target, row, executor, false, false, nullptr, NIL, false);
#else
    (void)ExecInsertIndexTuples(target, row, executor, false, false, nullptr, NIL);
#endif
}

// A scan by an index for rows of the table. 18 can count what the scan does, for EXPLAIN.
inline IndexScanDesc compat_index_beginscan(Relation table, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
    return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

// 17 lets access methods keep something in the IndexInfo between insertions, which must be let go.
inline void compat_index_insert_done(Relation index, IndexInfo *info) {
#if PG_VERSION_NUM >= 170000
    index_insert_cleanup(index, info);
#else
    (void)index;
    (void)info;
#endif
}

} // namespace whisperer::pg
