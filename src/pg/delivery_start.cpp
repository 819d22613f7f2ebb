// What a delivery worker is made of, and its sending thread's view of this process.
#include "pg/prelude.hpp"

#include "pg/claims.hpp"
#include "pg/delivery_worker.hpp"
#include "pg/ordered_end.hpp"
#include "pg/sender.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
}

namespace whisperer::pg {

namespace {

DeliveryWorker worker_storage;

void roles_changed(Datum, int, uint32) {
    worker_storage.owners_changed = true;
    worker_storage.reload_wanted = true;
}

// The sending thread's own: the process's generator belongs to the other thread.
pg_prng_state sending_random;
double sending_uniform(void *state) {
    return pg_prng_double((pg_prng_state *)state);
}

// For whisperer.workers: the thread may send long before this process looks at anything again.
void report_in_flight(void *, size_t requests) {
    pg_atomic_write_u32(&worker_storage.self->slot->in_flight, (uint32)requests);
}

unsigned count_recalls(void *) {
    return pg_atomic_read_u32(&worker_storage.database->recalls);
}

// Before anything that the thread uses goes away.
void stop_sending(int, Datum) {
    if (worker_storage.sending != nullptr)
        worker_storage.sending->stop();
}

[[noreturn]] void out_of_memory(const char *what) {
    ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("whisperer could not make %s", what),
            errhint("The worker is started again later; memory may be short, or file descriptors."));
}

void make_worker(DeliveryWorker *worker) {
    Suspect *suspects;
    int suspect_count;
    worker->database = roster_this_database_make();
    if (worker->database == nullptr)
        ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                errmsg("whisperer has no room for database \"%s\" in shared memory",
                       worker->self->database_name));
    if (worker->self->shard == 0)
        roster_say_enabled(worker->database, setting_enabled);
    worker->journal =
        journal_open(MyDatabaseId, worker->self->shard, worker->self->shards, &suspects, &suspect_count);
    sender_make_room();
    if (worker->self->shard == 0)
        sender_check_ca_file();
    core::HttpEngine *engine = core::HttpEngine::create(sender_engine_settings(), monotonic_micros());
    if (engine == nullptr)
        out_of_memory("its HTTP engine");
    core::FlightRecorder recorder = {worker->journal,     journal_took_off,  journal_landed,
                                     delivery_is_claimed, journal_acquitted, count_recalls,
                                     report_in_flight};
    pg_prng_seed(&sending_random, pg_prng_uint64(&pg_global_prng_state));
    core::Random random = {sending_uniform, &sending_random};
    worker->box = core::Outbox::create(engine, sender_limits(), random, recorder, sender_user_agent());
    worker->subscription_changes = core::ChangeCursor::create();
    if (worker->box == nullptr || worker->subscription_changes == nullptr)
        out_of_memory("its outbox");
    for (int i = 0; i < suspect_count; i++)
        if (!worker->box->add_suspect(suspects[i].uuid, suspects[i].count))
            out_of_memory("its list of suspects");
    if (suspect_count > 0)
        ereport(LOG,
                errmsg("whisperer found %d deliveries of database \"%s\" that were in flight at a crash",
                       suspect_count, worker->self->database_name),
                errdetail("They are sent again, with the same webhook-id."));
    pfree(suspects);
    before_shmem_exit(stop_sending, (Datum)0);
    // After it, and before anything is sent: it is called first.
    ordered_end_call(worker->self, journal_note_order);
    worker->sending = core::SendingThread::start(worker->box, {monotonic_micros, wall_clock});
    if (worker->sending == nullptr)
        out_of_memory("its sending thread");
    worker->held = true;
    worker->reload_wanted = true;
    worker->refetch_states = true;
}

// Plans of ours are always by index, and in its order: the tables' statistics may be of another hour, and a
// queue's are never right (see internal_read_in_order()).
void pin_planner() {
    static const char *const off[] = {"enable_seqscan",   "enable_bitmapscan", "enable_hashjoin",
                                      "enable_mergejoin", "enable_material",   "enable_sort"};
    for (const char *name : off)
        SetConfigOption(name, "off", PGC_USERSET, PGC_S_OVERRIDE);
    SetConfigOption("plan_cache_mode", "force_generic_plan", PGC_USERSET, PGC_S_OVERRIDE);
}

} // namespace

DeliveryWorker *make_delivery_worker(Datum main_arg) {
    DeliveryWorker *worker = &worker_storage;
    worker->self = worker_start(main_arg, WorkerKind::delivery);
    pin_planner();
    CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum)0);
    MemoryContext context =
        AllocSetContextCreate(TopMemoryContext, "whisperer delivery", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);
    make_worker(worker);
    return worker;
}

} // namespace whisperer::pg
