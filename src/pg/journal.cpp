#include "pg/prelude.hpp"

#include "pg/internal_sql.hpp"
#include "pg/journal.hpp"
#include "pg/roster.hpp"
#include "pg/visibility.hpp"
#include "pg/worker.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

extern "C" {
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

constexpr uint32 journal_magic = 0x57484a32; // "WHJ2"
constexpr int journal_capacity = 4096;       // the largest whisperer.max_in_flight

enum EntryState : uint32 {
    ENTRY_FREE = 0,
    ENTRY_IN_FLIGHT = 1,
    ENTRY_ALONE = 2,
    ENTRY_SUSPECT = 3 // was in flight at a crash, waits to be sent again
};

struct Entry {
    uint32 state; // written last
    core::CrashCount before;
    core::Uuid uuid;
    int64 subscription;
};

bool flies(const Entry &entry) {
    return entry.state == ENTRY_IN_FLIGHT || entry.state == ENTRY_ALONE;
}

struct JournalFile {
    uint32 magic;
    uint32 entry_size;
    Entry entries[journal_capacity];
};

void journal_path(char (&path)[MAXPGPATH], Oid database, int shard) {
    snprintf(path, sizeof(path), "%s/%u.%d.journal", worker_directory, database, shard);
}

// A shared mapping of the file, made and zeroed if need be. Its blocks are allocated here: a full disk must
// be an ERROR now and not a SIGBUS later.
JournalFile *map_file(const char *path) {
    worker_directory_make();
    int fd = OpenTransientFile(path, O_RDWR | O_CREAT | PG_BINARY);
    if (fd < 0)
        ereport(ERROR, errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path));
    int failed = posix_fallocate(fd, 0, sizeof(JournalFile));
    if (failed != 0) {
        errno = failed;
        ereport(ERROR, errcode_for_file_access(),
                errmsg("could not allocate %zu bytes for file \"%s\": %m", sizeof(JournalFile), path),
                errhint("Free space in the data directory; the worker tries again."));
    }
    void *memory = mmap(nullptr, sizeof(JournalFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        ereport(ERROR, errcode_for_file_access(), errmsg("could not map file \"%s\": %m", path));
    CloseTransientFile(fd);
    return (JournalFile *)memory;
}

// Adds the entries of one journal to the suspects, and leaves them there as such.
void take_suspects(JournalFile *file, Suspect *suspects, int *count, int capacity) {
    if (file->magic != journal_magic || file->entry_size != sizeof(Entry)) {
        memset(file, 0, sizeof(*file));
        file->magic = journal_magic;
        file->entry_size = sizeof(Entry);
        return;
    }
    int in_flight = 0;
    for (const Entry &entry : file->entries)
        in_flight += flies(entry);
    for (Entry &entry : file->entries) {
        if (flies(entry)) {
            entry.before.crashes++;
            entry.before.alone += entry.state == ENTRY_ALONE || in_flight == 1;
            entry.state = ENTRY_SUSPECT;
        }
        if (entry.state == ENTRY_SUSPECT && *count < capacity)
            suspects[(*count)++] = {entry.uuid, entry.before, entry.subscription};
    }
}

// The suspects in the first entries, the rest free.
void write_suspects(JournalFile *file, const Suspect *suspects, int count) {
    for (int i = 0; i < journal_capacity; i++) {
        Entry &entry = file->entries[i];
        if (i < count)
            entry = {ENTRY_SUSPECT, suspects[i].count, suspects[i].uuid, suspects[i].subscription};
        else
            entry.state = ENTRY_FREE;
    }
}

// A copy of the journal of one of this database's shards; false where there is none.
bool read_journal(int shard, JournalFile *copy) {
    char path[MAXPGPATH];
    journal_path(path, MyDatabaseId, shard);
    int fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, copy, sizeof(JournalFile));
    CloseTransientFile(fd);
    return got == (ssize_t)sizeof(JournalFile) && copy->magic == journal_magic;
}

} // namespace

// The file, and a stack of its free entries.
struct Journal {
    JournalFile *file;
    int suspect_entries; // as many of the first ones were written for suspects at the start
    int free_count;
    int free_entries[journal_capacity];
};

Journal *journal_open(Oid database, int shard, int shards, Suspect **suspects, int *count) {
    char path[MAXPGPATH];
    journal_path(path, database, shard);
    Journal *journal = (Journal *)MemoryContextAlloc(TopMemoryContext, sizeof(Journal));
    journal->file = map_file(path);

    int capacity = journal_capacity * max_shards;
    *suspects = (Suspect *)MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Suspect) * (size_t)capacity);
    *count = 0;
    take_suspects(journal->file, *suspects, count, capacity);
    // A suspect counts for the shard that now owns its subscription, which is not known from here: every
    // worker of a new set looks at all journals that have no owner any more. Shard 0 exists always.
    for (int other = 0; shard == 0 && other < max_shards; other++) {
        struct stat st;
        journal_path(path, database, other);
        if (other < shards || stat(path, &st) != 0)
            continue;
        JournalFile *left_over = map_file(path);
        take_suspects(left_over, *suspects, count, capacity);
        munmap(left_over, sizeof(JournalFile));
        if (unlink(path) != 0)
            ereport(LOG, errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path));
    }

    // Room is left for what is to fly. Those beyond it are forgotten by a crash that comes before their turn.
    journal->suspect_entries = Min(*count, journal_capacity / 2);
    write_suspects(journal->file, *suspects, journal->suspect_entries);
    journal->free_count = journal_capacity - journal->suspect_entries;
    for (int i = 0; i < journal->free_count; i++)
        journal->free_entries[i] = journal_capacity - 1 - i; // the first entries are used first
    return journal;
}

void journal_close(Journal *journal) {
    for (Entry &entry : journal->file->entries)
        entry.state = ENTRY_FREE;
    munmap(journal->file, sizeof(JournalFile));
    pfree(journal);
}

int journal_took_off(void *context, const core::Uuid &uuid, int64_t subscription, bool alone,
                     const core::CrashCount &before) {
    Journal *journal = (Journal *)context;
    if (before.crashes > 0)
        journal_acquitted(journal, uuid); // it gets an entry like any other
    if (journal->free_count == 0)
        return -1; // sent, but not remembered: only possible while results cannot be recorded
    int slot = journal->free_entries[--journal->free_count];
    Entry &entry = journal->file->entries[slot];
    entry.uuid = uuid;
    entry.subscription = subscription;
    entry.before = before;
    pg_write_barrier();
    entry.state = alone ? ENTRY_ALONE : ENTRY_IN_FLIGHT;
    return slot;
}

void journal_landed(void *context, int slot) {
    Journal *journal = (Journal *)context;
    if (slot < 0)
        return;
    journal->file->entries[slot].state = ENTRY_FREE;
    journal->free_entries[journal->free_count++] = slot;
}

void journal_acquitted(void *context, const core::Uuid &uuid) {
    Journal *journal = (Journal *)context;
    for (int slot = 0; slot < journal->suspect_entries; slot++) {
        const Entry &entry = journal->file->entries[slot];
        if (entry.state == ENTRY_SUSPECT && memcmp(entry.uuid.bytes, uuid.bytes, sizeof(uuid.bytes)) == 0)
            journal_landed(journal, slot);
    }
}

bool journal_has(const core::Uuid &uuid) {
    JournalFile *copy = (JournalFile *)palloc(sizeof(JournalFile));
    bool found = false;
    for (int shard = 0; shard < max_shards && !found; shard++) {
        if (!read_journal(shard, copy))
            continue;
        for (const Entry &entry : copy->entries)
            found = found || (flies(entry) && memcmp(entry.uuid.bytes, uuid.bytes, sizeof(uuid.bytes)) == 0);
    }
    pfree(copy);
    return found;
}

void journal_remove_all(Oid database) {
    for (int shard = 0; shard < max_shards; shard++) {
        char path[MAXPGPATH];
        journal_path(path, database, shard);
        (void)unlink(path);
    }
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// What the workers of this database have in flight now: (uuid, subscription_id).
WHISPERER_SQL_FUNCTION(whisperer_in_flight_list) {
    InitMaterializedSRF(fcinfo, 0);
    ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
    JournalFile *copy = (JournalFile *)palloc(sizeof(JournalFile));
    for (int shard = 0; shard < max_shards; shard++) {
        if (!read_journal(shard, copy))
            continue;
        for (const Entry &entry : copy->entries) {
            if (!flies(entry) || sight_of_subscription(fcinfo, entry.subscription) == Sight::none)
                continue;
            pg_uuid_t uuid;
            memcpy(uuid.data, entry.uuid.bytes, sizeof(uuid.data));
            Datum values[2] = {UUIDPGetDatum(&uuid), Int64GetDatum(entry.subscription)};
            bool nulls[2] = {false, false};
            tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
        }
    }
    return (Datum)0;
}
