#include "pg/prelude.hpp"

#include "pg/internal_sql.hpp"
#include "pg/journal.hpp"
#include "pg/roster.hpp"
#include "pg/visibility.hpp"
#include "pg/worker.hpp"
#include "pg/worker_slots.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

extern "C" {
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"
}

namespace whisperer::pg {

namespace {

constexpr uint32 journal_magic = 0x57484a33; // "WHJ3"
constexpr int journal_capacity = 4096;       // the largest whisperer.max_in_flight

enum EntryState : uint32 {
    ENTRY_FREE = 0,
    ENTRY_IN_FLIGHT = 1,
    ENTRY_ALONE = 2,
    ENTRY_SUSPECT = 3 // was in flight at a crash, waits to be sent again
};

struct Entry {
    uint32 state;
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
    // A base backup takes the file along: what its origin had in flight is nothing to the server that is
    // promoted from it.
    uint32 timeline;
    uint32 ordered_end; // 1: the worker was told to leave at once, which is no crash of its own
    Entry entries[journal_capacity];
};

void journal_path(char (&path)[MAXPGPATH], Oid database, int shard) {
    snprintf(path, sizeof(path), "%s/%u.%d.journal", worker_directory, database, shard);
}

// Not a mapping: where a page cannot be had when it is written (a full disk, and a file system that writes
// elsewhere than it allocated, or a sparse file), a store is a SIGBUS, which restarts the server, and again
// in the next worker. A write says so. False: errno says why.
bool write_at(int fd, const void *data, size_t size, off_t offset) {
    const char *from = (const char *)data;
    while (size > 0) {
        ssize_t written = pwrite(fd, from, size, offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            return false;
        }
        from += written;
        offset += written;
        size -= (size_t)written;
    }
    return true;
}

// All of a journal from its beginning; what cannot be read of it, or is none, is as good as empty. False: so
// it is. Not in recovery, which has no timeline yet.
bool read_file(int fd, JournalFile *file) {
    ssize_t got = read(fd, file, sizeof(*file));
    uint32 timeline = GetWALInsertionTimeLine();
    bool good = got == (ssize_t)sizeof(*file) && file->magic == journal_magic &&
                file->entry_size == sizeof(Entry) && file->timeline == timeline;
    if (!good) {
        memset(file, 0, sizeof(*file));
        file->magic = journal_magic;
        file->entry_size = sizeof(Entry);
        file->timeline = timeline;
    }
    return good;
}

// A copy of the journal of one of a database's shards; false where there is none.
bool read_journal(Oid database, int shard, JournalFile *copy) {
    char path[MAXPGPATH];
    journal_path(path, database, shard);
    int fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
    if (fd < 0)
        return false;
    bool good = read_file(fd, copy);
    CloseTransientFile(fd);
    return good;
}

// What a living worker of this database's shard has in flight. False: nothing, nor is anything on a standby.
bool read_living(int shard, JournalFile *copy) {
    return roster_this_database() != nullptr && !RecoveryInProgress() &&
           (slot_shards_present(MyDatabaseId) & (1u << shard)) != 0 &&
           read_journal(MyDatabaseId, shard, copy);
}

// The file, made if need be, open for as long as the process lives. Its blocks are allocated here, so that
// most file systems can be relied on to have room for what is written later.
int open_file(const char *path) {
    worker_directory_make();
    int fd = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
    if (fd < 0)
        ereport(ERROR, errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path));
    ReserveExternalFD();
    int failed = posix_fallocate(fd, 0, sizeof(JournalFile));
    if (failed != 0) {
        errno = failed;
        ereport(ERROR, errcode_for_file_access(),
                errmsg("could not allocate %zu bytes for file \"%s\": %m", sizeof(JournalFile), path),
                errhint("Free space in the data directory; the worker tries again."));
    }
    return fd;
}

// Adds the entries of one journal to the suspects.
void take_suspects(const JournalFile *file, Suspect *suspects, int *count, int capacity) {
    int in_flight = 0;
    for (const Entry &entry : file->entries)
        in_flight += flies(entry);
    for (const Entry &entry : file->entries) {
        core::CrashCount crashes = entry.before;
        if (flies(entry) && file->ordered_end == 0) {
            crashes.crashes++;
            crashes.alone += entry.state == ENTRY_ALONE || in_flight == 1;
        }
        if (entry.state != ENTRY_FREE && crashes.crashes > 0 && *count < capacity)
            suspects[(*count)++] = {entry.uuid, crashes, entry.subscription};
    }
}

// The suspects in the first entries, the rest free.
void write_suspects(JournalFile *file, const Suspect *suspects, int count) {
    file->ordered_end = 0;
    for (int i = 0; i < journal_capacity; i++) {
        Entry &entry = file->entries[i];
        if (i < count)
            entry = {ENTRY_SUSPECT, suspects[i].count, suspects[i].uuid, suspects[i].subscription};
        else
            entry.state = ENTRY_FREE;
    }
}

} // namespace

// The file as it is to be, a stack of its free entries, and what could not be written.
struct Journal {
    JournalFile file;
    int fd;
    char path[MAXPGPATH];
    int suspect_entries; // as many of the first ones were written for suspects at the start
    int free_count;
    int free_entries[journal_capacity];

    // Of the process's own thread, which mends and tells, and of whichever thread holds the outbox's lock.
    pthread_mutex_t lock;
    bool stale[journal_capacity]; // otherwise in the file than here
    int stale_count;
    int trouble;     // errno; 0: all went well lately
    int64 failed_at; // monotonic_micros()
    bool told;
};

namespace {

// Of the open journal, for a signal handler.
int open_journal = -1;

// After a failure so much time must pass before one that goes well is taken for its end: on a disk that is
// nearly full they alternate.
constexpr int64 calm = 5 * 1000 * 1000;

bool write_entry(Journal *journal, int slot) {
    const Entry &entry = journal->file.entries[slot];
    bool good = write_at(journal->fd, &entry, sizeof(entry),
                         (off_t)(offsetof(JournalFile, entries) + sizeof(entry) * (size_t)slot));
    if (!good) {
        journal->trouble = errno;
        journal->failed_at = monotonic_micros();
    } else if (journal->trouble != 0 && monotonic_micros() - journal->failed_at >= calm)
        journal->trouble = 0;
    journal->stale_count += (good ? 0 : 1) - (journal->stale[slot] ? 1 : 0);
    journal->stale[slot] = !good;
    return good;
}

// False: some could not be written.
bool mend(Journal *journal) {
    for (int slot = 0; slot < journal_capacity && journal->stale_count > 0; slot++)
        if (journal->stale[slot] && !write_entry(journal, slot))
            return false;
    return true;
}

void free_entry(Journal *journal, int slot) {
    journal->file.entries[slot].state = ENTRY_FREE;
    (void)write_entry(journal, slot);
    journal->free_entries[journal->free_count++] = slot;
}

// -1: none.
int find_suspect(const Journal *journal, const core::Uuid &uuid) {
    for (int slot = 0; slot < journal->suspect_entries; slot++) {
        const Entry &entry = journal->file.entries[slot];
        if (entry.state == ENTRY_SUSPECT && memcmp(entry.uuid.bytes, uuid.bytes, sizeof(uuid.bytes)) == 0)
            return slot;
    }
    return -1;
}

} // namespace

Journal *journal_open(Oid database, int shard, int shards, Suspect **suspects, int *count) {
    Journal *journal = (Journal *)MemoryContextAllocZero(TopMemoryContext, sizeof(Journal));
    (void)pthread_mutex_init(&journal->lock, nullptr);
    journal_path(journal->path, database, shard);
    journal->fd = open_file(journal->path);

    int capacity = journal_capacity * max_shards;
    *suspects = (Suspect *)MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Suspect) * (size_t)capacity);
    *count = 0;
    (void)read_file(journal->fd, &journal->file);
    take_suspects(&journal->file, *suspects, count, capacity);
    // A suspect counts for the shard that now owns its subscription, which is not known from here: every
    // worker of a new set looks at all journals that have no owner any more. Shard 0 exists always.
    for (int other = shards; shard == 0 && other < max_shards; other++)
        if (read_journal(database, other, &journal->file))
            take_suspects(&journal->file, *suspects, count, capacity);

    // Room is left for what is to fly. Those beyond it are forgotten by a crash that comes before their turn.
    journal->suspect_entries = Min(*count, journal_capacity / 2);
    write_suspects(&journal->file, *suspects, journal->suspect_entries);
    if (!write_at(journal->fd, &journal->file, sizeof(journal->file), 0))
        ereport(ERROR, errcode_for_file_access(), errmsg("could not write file \"%s\": %m", journal->path),
                errhint("Free space in the data directory; the worker tries again."));
    for (int other = shards; shard == 0 && other < max_shards; other++) {
        char path[MAXPGPATH];
        journal_path(path, database, other);
        if (unlink(path) != 0 && errno != ENOENT)
            ereport(LOG, errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path));
    }
    journal->free_count = journal_capacity - journal->suspect_entries;
    for (int i = 0; i < journal->free_count; i++)
        journal->free_entries[i] = journal_capacity - 1 - i; // the first entries are used first
    open_journal = journal->fd;
    return journal;
}

void journal_note_order() {
    static const uint32 ordered = 1;
    if (open_journal >= 0)
        (void)write_at(open_journal, &ordered, sizeof(ordered), (off_t)offsetof(JournalFile, ordered_end));
}

void journal_close(Journal *journal) {
    for (int slot = 0; slot < journal_capacity; slot++)
        if (journal->file.entries[slot].state != ENTRY_FREE || journal->stale[slot])
            free_entry(journal, slot);
    if (!mend(journal) && unlink(journal->path) != 0)
        ereport(LOG, errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", journal->path));
    open_journal = -1;
    close(journal->fd);
    ReleaseExternalFD();
    pfree(journal);
}

int journal_took_off(void *context, const core::Uuid &uuid, int64_t subscription, bool alone,
                     const core::CrashCount &before) {
    Journal *journal = (Journal *)context;
    (void)pthread_mutex_lock(&journal->lock);
    // A suspect keeps its entry, which is written once: it is in the file as one or the other until it has
    // landed.
    int slot = before.crashes > 0 ? find_suspect(journal, uuid) : -1;
    bool suspect = slot >= 0;
    if (!suspect && journal->free_count > 0)
        slot = journal->free_entries[--journal->free_count];
    if (slot >= 0) { // else only possible while results cannot be recorded
        Entry &entry = journal->file.entries[slot];
        Entry was = entry;
        entry = {alone ? ENTRY_ALONE : ENTRY_IN_FLIGHT, before, uuid, subscription};
        if (!write_entry(journal, slot)) {
            entry = was;
            if (!suspect)
                journal->free_entries[journal->free_count++] = slot;
            slot = -1;
        }
    }
    (void)pthread_mutex_unlock(&journal->lock);
    return slot; // -1: sent, but not remembered
}

void journal_landed(void *context, int slot) {
    Journal *journal = (Journal *)context;
    if (slot < 0)
        return;
    (void)pthread_mutex_lock(&journal->lock);
    free_entry(journal, slot);
    (void)pthread_mutex_unlock(&journal->lock);
}

void journal_acquitted(void *context, const core::Uuid &uuid) {
    Journal *journal = (Journal *)context;
    (void)pthread_mutex_lock(&journal->lock);
    int slot = find_suspect(journal, uuid);
    if (slot >= 0)
        free_entry(journal, slot);
    (void)pthread_mutex_unlock(&journal->lock);
}

void journal_tend(Journal *journal) {
    (void)pthread_mutex_lock(&journal->lock);
    (void)mend(journal);
    int trouble = journal->trouble;
    bool news = trouble != 0 && !journal->told;
    journal->told = trouble != 0;
    (void)pthread_mutex_unlock(&journal->lock);
    if (!news)
        return;
    errno = trouble;
    ereport(LOG, errcode_for_file_access(),
            errmsg("whisperer could not write file \"%s\": %m", journal->path),
            errdetail("Deliveries are sent, but after a crash it is not known which were in flight."),
            errhint("Free space in the data directory, if that is what is short."));
}

bool journal_has(const core::Uuid &uuid) {
    JournalFile *copy = (JournalFile *)palloc(sizeof(JournalFile));
    bool found = false;
    for (int shard = 0; shard < max_shards && !found; shard++) {
        if (!read_living(shard, copy))
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
        if (!read_living(shard, copy))
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
