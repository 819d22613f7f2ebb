#include "pg/prelude.hpp"

#include "pg/ordered_end.hpp"
#include "pg/taken_jobs.hpp"
#include "pg/worker.hpp"

#include <fcntl.h>
#include <unistd.h>

extern "C" {
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
};

const TakenJobs *watched = nullptr;
char watched_path[MAXPGPATH]; // made before, for a signal handler

void path_of(char (&path)[MAXPGPATH], Oid database, JobKind kind) {
    snprintf(path, sizeof(path), "%s/%u.%s.taken", worker_directory, database,
             kind == JobKind::callback ? "callback" : "countdown");
}

// In a signal handler, perhaps in the midst of a change to what is watched: a job that is none is none in the
// table, either.
void note() {
    NotedJob noted[most_jobs_at_once];
    int count = watched->count;
    if (count <= 0)
        return;
    for (int i = 0; i < count; i++) {
        const JobKey &job = watched->jobs[i];
        noted[i].xid = job.xid;
        memcpy(noted[i].uuid, job.uuid, sizeof(job.uuid));
        noted[i].owner = job.owner;
        noted[i].attempt = job.attempt;
    }
    // Appended, as there may be several processes.
    int fd = open(watched_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, pg_file_create_mode);
    if (fd < 0)
        return;
    ssize_t written = write(fd, noted, sizeof(NotedJob) * (size_t)count);
    (void)written; // less than all: the rest counts
    close(fd);
}

} // namespace

void taken_jobs_watch(JobKind kind, const TakenJobs *taken) {
    worker_directory_make();
    path_of(watched_path, MyDatabaseId, kind);
    watched = taken;
    ordered_end_call(note);
}

int taken_jobs_left(JobKind kind, JobKey **jobs) {
    char path[MAXPGPATH];
    path_of(path, MyDatabaseId, kind);
    *jobs = nullptr;
    int fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
    if (fd < 0)
        return 0;
    size_t size = sizeof(NotedJob) * most_left;
    NotedJob *noted = (NotedJob *)palloc(size);
    ssize_t got = read(fd, noted, size);
    CloseTransientFile(fd);
    // Who removes it has it: several processes may start at once.
    int count = unlink(path) == 0 && got > 0 ? (int)((size_t)got / sizeof(NotedJob)) : 0;
    *jobs = (JobKey *)palloc0(sizeof(JobKey) * (size_t)(count + 1));
    for (int i = 0; i < count; i++) {
        JobKey &job = (*jobs)[i];
        job.xid = noted[i].xid;
        memcpy(job.uuid, noted[i].uuid, sizeof(job.uuid));
        job.owner = noted[i].owner;
        job.attempt = noted[i].attempt;
    }
    pfree(noted);
    return count;
}

void taken_jobs_remove_all(Oid database) {
    for (JobKind kind : {JobKind::callback, JobKind::countdown}) {
        char path[MAXPGPATH];
        path_of(path, database, kind);
        (void)unlink(path);
    }
}

} // namespace whisperer::pg
