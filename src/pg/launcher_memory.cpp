#include "pg/prelude.hpp"

#include "pg/launcher_parts.hpp"
#include "pg/worker.hpp"

extern "C" {
#include "access/xlog.h"
#include "storage/fd.h"
#include "utils/timestamp.h"
}

#include <unistd.h>

namespace whisperer::pg {

namespace {

// One line a database: oid, failures in a row, whether its workers run, the wall-clock second they started.
// Text, so that a person can read it. It is not synced: after a power cut nothing has crashed because of us.
constexpr const char *file_name = "pg_whisperer/launcher";
constexpr const char *file_name_new = "pg_whisperer/launcher.new";

// With the timeline: a base backup takes the file along, and for the server that is promoted from it what its
// origin was doing is no crash of its own.
struct Head {
    char text[64];
};
Head file_head() {
    Head head;
    snprintf(head.text, sizeof(head.text), "whisperer launcher 2, timeline %u\n", GetWALInsertionTimeLine());
    return head;
}

constexpr int64 longest_backoff = INT64CONST(300) * 1000000;
// Where failures cannot be remembered.
constexpr int64 backoff_unknown = INT64CONST(60) * 1000000;

bool write_trouble_said = false;

void say_write_trouble(int error_number) {
    if (write_trouble_said)
        return;
    write_trouble_said = true;
    errno = error_number;
    ereport(LOG,
            (errcode_for_file_access(), errmsg("whisperer could not write file \"%s\": %m", file_name),
             errdetail("Without it, a crash of the server hides how often workers have failed: while this "
                       "lasts, they are started a minute after it."),
             errhint("Free space in the data directory, if that is what is short.")));
}

// Of a set that was running when the launcher wrote last and did not say goodbye.
void take_line(Entries *entries, Oid database, int failures, bool running, int64 started) {
    Entry *entry = entry_make(entries, database);
    int64 uptime = (GetCurrentTimestamp() / USECS_PER_SEC - started) * USECS_PER_SEC;
    if (running)
        entry->failures = uptime >= 0 && uptime < healthy_micros ? Min(failures, 1000) + 1 : 0;
    else
        entry->failures = Min(failures, 1000);
    if (running && entry->failures > 0)
        entry->next_try = monotonic_micros() + backoff_micros(entry->failures);
}

} // namespace

int64 backoff_micros(int failures) {
    if (failures <= 0)
        return 0;
    return failures > 9 ? longest_backoff : Min(longest_backoff, (INT64CONST(1) << (failures - 1)) * 1000000);
}

void memory_read(Entries *entries) {
    FILE *file = AllocateFile(file_name, "r");
    if (file == nullptr) {
        if (errno != ENOENT)
            ereport(LOG, (errcode_for_file_access(),
                          errmsg("whisperer could not read file \"%s\": %m", file_name)));
        return;
    }
    Head head;
    if (fgets(head.text, sizeof(head.text), file) != nullptr && strcmp(head.text, file_head().text) == 0) {
        unsigned int database;
        int failures;
        int running;
        long long started;
        while (fscanf(file, "%u %d %d %lld", &database, &failures, &running, &started) == 4)
            if (OidIsValid(database) && failures >= 0)
                take_line(entries, database, failures, running != 0, started);
    }
    FreeFile(file);
}

bool memory_write(const Entries *entries, bool leaving) {
    FILE *file = AllocateFile(file_name_new, "w");
    if (file == nullptr) {
        say_write_trouble(errno);
        return false;
    }
    int64 now = monotonic_micros();
    int64 wall = GetCurrentTimestamp() / USECS_PER_SEC;
    fputs(file_head().text, file);
    for (int i = 0; i < entries->count; i++) {
        const Entry &entry = entries->list[i];
        bool runs = entry.state == DatabaseState::running;
        bool running = !leaving && runs;
        int failures = runs && now - entry.running_since >= healthy_micros ? 0 : entry.failures;
        if (!OidIsValid(entry.database) || (!running && failures == 0))
            continue;
        int64 started = running ? wall - (now - entry.running_since) / 1000000 : 0;
        fprintf(file, "%u %d %d %lld\n", entry.database, failures, running ? 1 : 0,
                static_cast<long long>(started));
    }
    bool good = ferror(file) == 0;
    int error_number = errno;
    if (FreeFile(file) != 0) {
        error_number = errno;
        good = false;
    }
    if (good && rename(file_name_new, file_name) != 0) {
        error_number = errno;
        good = false;
    }
    if (good) {
        write_trouble_said = false;
    } else {
        (void)unlink(file_name_new);
        say_write_trouble(error_number);
    }
    return good;
}

void memory_check(Entries *entries) {
    if (memory_write(entries, false))
        return;
    for (int i = 0; i < entries->count; i++)
        entries->list[i].next_try = Max(entries->list[i].next_try, monotonic_micros() + backoff_unknown);
}

} // namespace whisperer::pg
