#include "pg/prelude.hpp"

#include "pg/wake.hpp"

#include "pg/prepared.hpp"
#include "pg/roster.hpp"
#include "pg/statistics.hpp"

extern "C" {
#include "access/xact.h"
#include "replication/logicalworker.h"
#include "utils/memutils.h"
}

namespace whisperer::pg {

namespace {

// What one subtransaction (or the transaction) has written. A stack: the innermost on top, in
// TopTransactionContext.
struct Level {
    SubTransactionId subtransaction;
    uint64 counts[counter_kinds]; // a sum may be taken back in a level further in: modulo 2^64
    uint64 due;                   // deliveries that there were, made due
    Level *outer;
};

constexpr int max_launcher_databases = 8;

// Of the current transaction. Marks are not taken back when a subtransaction rolls back: a superfluous one
// makes a worker look once for nothing. Counts are. Static, so that commit allocates nothing.
Level *top = nullptr;
bool any_marks = false;
bool any_bits = false;
uint64 bits[dirty_words];
bool reload = false;
bool recall = false;
bool everything = false;
bool jobs[job_kinds] = {};
int launcher_count = 0; // more than max_launcher_databases: all
Oid launcher_databases[max_launcher_databases];

Level *current_level() {
    SubTransactionId current = GetCurrentSubTransactionId();
    if (top == nullptr || top->subtransaction != current) {
        auto *level = static_cast<Level *>(MemoryContextAllocZero(TopTransactionContext, sizeof(Level)));
        level->subtransaction = current;
        level->outer = top;
        top = level;
    }
    return top;
}

void forget() {
    top = nullptr; // its memory goes with the transaction
    if (any_bits)
        memset(bits, 0, sizeof(bits));
    any_bits = any_marks = reload = recall = everything = false;
    for (bool &kind : jobs)
        kind = false;
    launcher_count = 0;
}

// The transaction is committed and visible: nothing here may fail.
void publish() {
    if (top != nullptr || any_marks) {
        DatabaseSlot *slot = roster_this_database_make();
        if (slot != nullptr) {
            if (top != nullptr) { // every level has been merged into the transaction's own
                for (int kind = 0; kind < counter_kinds; kind++)
                    roster_count(static_cast<Counter>(kind), top->counts[kind]);
            }
            if (reload || everything)
                roster_mark_reload(slot, everything);
            if (any_bits)
                roster_mark_dirty(slot, bits);
            if (reload || recall || everything)
                pg_atomic_fetch_add_u32(&slot->recalls, 1); // after the marks: whoever sees it sees them
            for (int kind = 0; kind < job_kinds; kind++)
                if (jobs[kind])
                    roster_jobs_written(static_cast<JobKind>(kind));
            if (top != nullptr &&
                top->counts[COUNT_CANCELLED] + top->counts[COUNT_DELIVERED] + top->counts[COUNT_FAILED] > 0)
                roster_broadcast_settled();
        }
    }
    if (launcher_count > max_launcher_databases)
        roster_look_at(InvalidOid);
    else
        for (int i = 0; i < launcher_count; i++)
            roster_look_at(launcher_databases[i]);
}

// It is not known who will commit it.
void note_prepared() {
    uint32 news = 0;
    if (any_bits)
        news |= PREPARED_DELIVERIES;
    if (reload || recall || everything)
        news |= PREPARED_RECALL;
    for (bool kind : jobs)
        if (kind)
            news |= PREPARED_JOBS;
    prepared_note(news);
    if (top != nullptr)
        statistics_prepare(top->counts);
}

void at_transaction(XactEvent event, void *) {
    switch (event) {
    case XACT_EVENT_PRE_PREPARE:
        note_prepared();
        break;
    case XACT_EVENT_PRE_COMMIT:
        // Within such a transaction apply workers commit what was prepared, without a statement.
        if (IsLogicalWorker() && roster_this_database() != nullptr) {
            wake_prepared();
            prepared_watch();
        }
        break;
    case XACT_EVENT_COMMIT:
        publish();
        forget();
        break;
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PREPARE: // COMMIT PREPARED wakes
        forget();
        break;
    default:
        break;
    }
}

void at_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *) {
    if (top == nullptr || top->subtransaction != mine)
        return;
    if (event == SUBXACT_EVENT_ABORT_SUB) {
        Level *gone = top;
        top = gone->outer;
        pfree(gone);
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        Level *outer = top->outer;
        if (outer == nullptr || outer->subtransaction != parent) {
            top->subtransaction = parent;
            return;
        }
        for (int kind = 0; kind < counter_kinds; kind++)
            outer->counts[kind] += top->counts[kind];
        outer->due += top->due;
        pfree(top);
        top = outer;
    }
}

void mark(int64 subscription_id) {
    uint32 bit = subscription_bit(subscription_id);
    bits[bit / 64] |= UINT64CONST(1) << (bit % 64);
    any_bits = any_marks = true;
}

} // namespace

void wake_delivery(int64 subscription_id, uint64 deliveries) {
    current_level()->counts[COUNT_DELIVERIES] += deliveries;
    mark(subscription_id);
}

void wake_due(int64 subscription_id, uint64 deliveries) {
    current_level()->due += deliveries;
    mark(subscription_id);
}

void wake_recall(int64 subscription_id) {
    mark(subscription_id);
    recall = true;
}

void wake_events(uint64 events) {
    current_level()->counts[COUNT_EVENTS] += events;
}

void wake_subscriptions() {
    reload = any_marks = true;
}

void wake_cancelled(uint64 deliveries) {
    if (deliveries > 0)
        current_level()->counts[COUNT_CANCELLED] += deliveries;
}

void wake_not_cancelled() {
    current_level()->counts[COUNT_CANCELLED]--;
}

void wake_results(uint64 attempts, uint64 delivered, uint64 failed) {
    Level *level = current_level();
    level->counts[COUNT_ATTEMPTS] += attempts;
    level->counts[COUNT_DELIVERED] += delivered;
    level->counts[COUNT_FAILED] += failed;
}

void wake_jobs(JobKind kind) {
    jobs[static_cast<int>(kind)] = any_marks = true;
}

void wake_all() {
    everything = any_marks = true;
}

void wake_prepared() {
    uint32 news = prepared_heard();
    if (news == 0)
        return;
    DatabaseSlot *slot = roster_this_database();
    if (slot == nullptr || (news & PREPARED_UNKNOWN) != 0)
        roster_look_at(MyDatabaseId); // perhaps CREATE EXTENSION was in it
    if (slot == nullptr)
        return;
    roster_mark_reload(slot, true);
    if ((news & PREPARED_RECALL) != 0) {
        pg_atomic_fetch_add_u32(&slot->recalls, 1);
        roster_broadcast_settled();
    }
    if ((news & PREPARED_JOBS) != 0)
        for (int kind = 0; kind < job_kinds; kind++)
            roster_jobs_written(static_cast<JobKind>(kind));
}

void wake_launcher_for(Oid database) {
    for (int i = 0; i < Min(launcher_count, max_launcher_databases); i++)
        if (launcher_databases[i] == database)
            return;
    if (!OidIsValid(database) || launcher_count >= max_launcher_databases)
        launcher_count = max_launcher_databases + 1;
    else
        launcher_databases[launcher_count++] = database;
}

bool wake_has_uncommitted_deliveries() {
    for (const Level *level = top; level != nullptr; level = level->outer)
        if (level->counts[COUNT_DELIVERIES] + level->due > 0)
            return true;
    return false;
}

void wake_init() {
    RegisterXactCallback(at_transaction, nullptr);
    RegisterSubXactCallback(at_subtransaction, nullptr);
}

} // namespace whisperer::pg
