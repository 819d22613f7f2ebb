#include "pg/prelude.hpp"

#include "pg/job_guard.hpp"
#include "pg/ordered_end.hpp"
#include "pg/taken_jobs.hpp"

#include <fcntl.h>
#include <unistd.h>

extern "C" {
#include "access/parallel.h"
#include "common/file_perm.h"
#include "storage/fd.h"
}

namespace whisperer::pg {

namespace {

// As many are taken over at most: of more than a hundred processes.
constexpr int most_left = 4096;

// In the file; a JobKey has bytes that belong to nothing.
struct NotedJob {
    uint64 xid;
    unsigned char uuid[16];
    Oid owner;
    int32 attempt;
    int32 runs;
    int32 unused;
};

const TakenJobs *volatile taken_now = nullptr;
char taken_path[MAXPGPATH]; // made before, for a signal handler

void path_of(char (&path)[MAXPGPATH], Oid database, JobKind kind) {
    snprintf(path, sizeof(path), "%s/%u.%s.taken", worker_directory, database,
             kind == JobKind::callback ? "callback" : "countdown");
}

// Or empties it: what was forgiven shall not be forgiven again.
void remove_file(Oid database, JobKind kind) {
    char path[MAXPGPATH];
    path_of(path, database, kind);
    if (unlink(path) != 0 && errno != ENOENT && truncate(path, 0) != 0)
        ereport(LOG, errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path));
}

// What the call itself may have brought about: the crash of a parallel worker of its own, or that somebody
// stopped the server at once because it would not end.
bool is_to_blame(const JobKey &job) {
    return guard_is_making(job) && (guard_is_overdue() || ParallelContextActive());
}

// Perhaps in a signal handler.
void note() {
    const TakenJobs *taken = taken_now;
    if (taken == nullptr)
        return;
    taken_now = nullptr;
    NotedJob noted[most_jobs_at_once];
    size_t count = 0;
    for (int i = 0; i < taken->count; i++) {
        const JobKey &job = taken->jobs[i];
        if (is_to_blame(job))
            continue;
        NotedJob &entry = noted[count++];
        entry.xid = job.xid;
        memcpy(entry.uuid, job.uuid, sizeof(job.uuid));
        entry.owner = job.owner;
        entry.attempt = job.attempt;
        entry.runs = taken->runs[i];
        entry.unused = 0;
    }
    if (count == 0)
        return;
    // Appended, as there may be several processes.
    int fd = open(taken_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, pg_file_create_mode);
    if (fd < 0)
        return;
    ssize_t written = write(fd, noted, sizeof(NotedJob) * count);
    (void)written; // less than all: the rest counts
    close(fd);
}

} // namespace

void taken_jobs_init(WorkerSelf *self, JobKind kind) {
    worker_directory_make();
    path_of(taken_path, MyDatabaseId, kind);
    ordered_end_call(self, note);
}

void taken_jobs_are(const TakenJobs *taken) {
    taken_now = taken;
}

const TakenJobs *taken_jobs_now() {
    return taken_now;
}

int taken_jobs_left(JobKind kind, LeftJob **left) {
    char path[MAXPGPATH];
    path_of(path, MyDatabaseId, kind);
    *left = nullptr;
    int fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
    if (fd < 0)
        return -1;
    size_t size = sizeof(NotedJob) * most_left;
    NotedJob *noted = (NotedJob *)palloc(size);
    ssize_t got = read(fd, noted, size);
    CloseTransientFile(fd);
    int count = got < 0 ? -1 : (int)((size_t)got / sizeof(NotedJob));
    *left = (LeftJob *)palloc0(sizeof(LeftJob) * (size_t)Max(count, 1));
    for (int i = 0; i < count; i++) {
        JobKey &key = (*left)[i].key;
        key.xid = noted[i].xid;
        memcpy(key.uuid, noted[i].uuid, sizeof(key.uuid));
        key.owner = noted[i].owner;
        key.attempt = noted[i].attempt;
        (*left)[i].runs = noted[i].runs;
    }
    pfree(noted);
    return count;
}

void taken_jobs_forget(JobKind kind) {
    remove_file(MyDatabaseId, kind);
}

void taken_jobs_remove_all(Oid database) {
    remove_file(database, JobKind::callback);
    remove_file(database, JobKind::countdown);
}

} // namespace whisperer::pg
