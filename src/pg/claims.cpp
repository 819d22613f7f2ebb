#include "pg/prelude.hpp"

#include "pg/claims.hpp"

extern "C" {
#include "access/xact.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *tranche = "whisperer claims";
constexpr int claims_of_all = 1024;
constexpr int claims_of_one = 64; // sessions' own lists are static: giving up a claim may not fail

struct Claim {
    Oid database; // InvalidOid: free
    int pid;
    core::Uuid uuid;
};

struct Claims {
    LWLock *lock; // a leaf: nothing else is acquired under it
    pg_atomic_uint32 count;
    Claim all[claims_of_all];
};
static_assert(std::is_trivially_destructible_v<Claims>, "shared memory holds plain data only");

Claims *claims = nullptr;
shmem_request_hook_type previous_request = nullptr;
shmem_startup_hook_type previous_startup = nullptr;

// This session's claims and the subtransactions that made them.
struct Mine {
    int index;
    SubTransactionId subtransaction;
};
Mine mine[claims_of_one];
int mine_count = 0;

void request_memory() {
    if (previous_request != nullptr)
        previous_request();
    RequestAddinShmemSpace(sizeof(Claims));
    RequestNamedLWLockTranche(tranche, 1);
}

void start_memory() {
    if (previous_startup != nullptr)
        previous_startup();
    bool found = false;
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    auto *shared = static_cast<Claims *>(ShmemInitStruct("whisperer claims", sizeof(Claims), &found));
    if (!found) {
        memset(static_cast<void *>(shared), 0, sizeof(*shared));
        shared->lock = &GetNamedLWLockTranche(tranche)->lock;
        pg_atomic_init_u32(&shared->count, 0);
    }
    LWLockRelease(AddinShmemInitLock);
    claims = shared;
}

bool same(const core::Uuid &a, const core::Uuid &b) {
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

// The claim of a delivery, or null; *unused is a free entry, or null. Under the lock.
Claim *find(const core::Uuid &uuid, Claim **unused) {
    *unused = nullptr;
    for (Claim &claim : claims->all) {
        if (!OidIsValid(claim.database))
            *unused = *unused == nullptr ? &claim : *unused;
        else if (claim.database == MyDatabaseId && same(claim.uuid, uuid))
            return &claim;
    }
    return nullptr;
}

// Gives up those of one subtransaction, or all (InvalidSubTransactionId).
void give_up(SubTransactionId subtransaction) {
    if (mine_count == 0)
        return;
    int kept = 0;
    LWLockAcquire(claims->lock, LW_EXCLUSIVE);
    for (int i = 0; i < mine_count; i++) {
        if (subtransaction != InvalidSubTransactionId && mine[i].subtransaction != subtransaction) {
            mine[kept++] = mine[i];
            continue;
        }
        claims->all[mine[i].index].database = InvalidOid;
        pg_atomic_fetch_sub_u32(&claims->count, 1);
    }
    LWLockRelease(claims->lock);
    mine_count = kept;
}

// Nobody would hold the claims of a prepared transaction: the worker, which sees its results only when it is
// committed, would send those deliveries once more.
void refuse_prepare() {
    ereport(
        ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
        errmsg("cannot PREPARE a transaction that has sent a delivery again"),
        errdetail("Until its result is committed the background would send that delivery, too."),
        errhint("Commit it without PREPARE TRANSACTION, or leave the delivery to the background: _async => "
                "true."));
}

void at_transaction(XactEvent event, void *) {
    if (event == XACT_EVENT_PRE_PREPARE && mine_count > 0)
        refuse_prepare();
    if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
        give_up(InvalidSubTransactionId);
}

void at_subtransaction(SubXactEvent event, SubTransactionId subtransaction, SubTransactionId parent, void *) {
    if (event == SUBXACT_EVENT_ABORT_SUB)
        give_up(subtransaction);
    else if (event == SUBXACT_EVENT_COMMIT_SUB)
        for (int i = 0; i < mine_count; i++)
            if (mine[i].subtransaction == subtransaction)
                mine[i].subtransaction = parent;
}

} // namespace

bool claim_delivery(const core::Uuid &uuid) {
    Claim *unused;
    LWLockAcquire(claims->lock, LW_EXCLUSIVE);
    Claim *claim = find(uuid, &unused);
    bool full = claim == nullptr && (unused == nullptr || mine_count == claims_of_one);
    bool is_mine = claim == nullptr ? !full : claim->pid == MyProcPid;
    if (claim == nullptr && !full) {
        unused->pid = MyProcPid;
        unused->uuid = uuid;
        pg_write_barrier();
        unused->database = MyDatabaseId; // last: see delivery_is_claimed()
        mine[mine_count++] = {static_cast<int>(unused - claims->all), GetCurrentSubTransactionId()};
        pg_atomic_fetch_add_u32(&claims->count, 1); // a full barrier: the journals are read after it
    }
    LWLockRelease(claims->lock);
    if (full)
        ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                errmsg("too many deliveries are being sent again by sessions"),
                errdetail("One transaction may send %d again, all transactions together %d.", claims_of_one,
                          claims_of_all),
                errhint("Commit more often, or leave the deliveries to the background: _async => true."));
    return is_mine;
}

bool delivery_is_claimed(void *, const core::Uuid &uuid) {
    pg_memory_barrier(); // the journal was written before
    if (pg_atomic_read_u32(&claims->count) == 0)
        return false;
    // Without the lock, which is not for the sending thread. A claim that is not seen whole here is one whose
    // session has still to read the journal.
    for (const Claim &claim : claims->all) {
        if (*(const volatile Oid *)&claim.database != MyDatabaseId)
            continue;
        pg_read_barrier();
        if (same(claim.uuid, uuid))
            return true;
    }
    return false;
}

void claims_init() {
    previous_request = shmem_request_hook;
    shmem_request_hook = request_memory;
    previous_startup = shmem_startup_hook;
    shmem_startup_hook = start_memory;
    RegisterXactCallback(at_transaction, nullptr);
    RegisterSubXactCallback(at_subtransaction, nullptr);
}

} // namespace whisperer::pg
