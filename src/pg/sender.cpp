#include "pg/prelude.hpp"

#include "pg/sender.hpp"
#include "pg/settings.hpp"

#include <sys/resource.h>

namespace whisperer::pg {

namespace {

core::Slice setting_text(const char *value) {
    return core::Slice{value, value == nullptr ? 0 : strlen(value)};
}

// Of the files that this process may open: PostgreSQL's own (which closes some of them when there are no
// more), name look-ups', the engine's.
constexpr rlim_t other_files = 200;
// A name with IPv4 and IPv6 addresses is tried at two at once (RFC 8305).
constexpr rlim_t sockets_of_request = 2;

// How many files this process may have open. Unknown is no limit.
rlimit open_files() {
    rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        files = {RLIM_INFINITY, RLIM_INFINITY};
    return files;
}

} // namespace

core::EngineSettings sender_engine_settings() {
    return core::EngineSettings{&setting_allowed_networks(), setting_text(setting_ca_file),
                                setting_text(setting_proxy), (size_t)sender_max_in_flight()};
}

core::OutboxLimits sender_limits() {
    return core::OutboxLimits{sender_max_in_flight(), setting_max_in_flight_per_subscription,
                              (size_t)setting_max_response_size};
}

int sender_max_in_flight() {
    rlim_t files = open_files().rlim_cur;
    rlim_t sockets = files > other_files ? files - other_files : 0;
    return (int)Max(Min((rlim_t)setting_max_in_flight, sockets / sockets_of_request), 1);
}

void sender_make_room() {
    // Those of idle connections, which are kept open, and those of requests.
    rlim_t needed = other_files + (sockets_of_request + 1) * (rlim_t)setting_max_in_flight;
    rlimit files = open_files();
    if (files.rlim_cur < needed && files.rlim_cur < files.rlim_max) {
        rlimit more = {Min(needed, files.rlim_max), files.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            files = more;
    }
    static int told; // whisperer.max_in_flight as it was then
    if (sender_max_in_flight() == setting_max_in_flight)
        told = 0;
    else if (told != setting_max_in_flight) {
        told = setting_max_in_flight;
        ereport(WARNING, errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                errmsg("a delivery worker of whisperer can have only %d requests under way at once, not %d",
                       sender_max_in_flight(), setting_max_in_flight),
                errdetail("The operating system lets it open no more than %llu files.",
                          (unsigned long long)files.rlim_cur),
                errhint("Raise the server's limit of open files (LimitNOFILE of its service, or ulimit -n) "
                        "and restart it, or decrease whisperer.max_in_flight."));
    }
}

void sender_check_ca_file() {
    static core::CaFile told = core::CaFile::good;
    static char told_path[MAXPGPATH];
    const char *path = setting_ca_file == nullptr ? "" : setting_ca_file;
    core::CaFile found = *path == '\0' ? core::CaFile::good : core::look_at_ca_file(path);
    int reason = errno;
    bool said = found == told && strcmp(path, told_path) == 0;
    told = found;
    strlcpy(told_path, path, sizeof(told_path));
    if (said || found == core::CaFile::good)
        return;
    const char *fact = found == core::CaFile::unreadable ? psprintf("could not be read: %s", strerror(reason))
                       : found == core::CaFile::no_file  ? "is not a regular file"
                                                         : "has no certificate in it";
    ereport(
        WARNING, errcode(ERRCODE_CONFIG_FILE_ERROR), errmsg("whisperer.ca_file \"%s\" %s", path, fact),
        errdetail("No receiver can be verified, and so none is reached by https."),
        errhint("Set it to a PEM file of certificates that the server may read, or to an empty string for "
                "the system's store."));
}

core::Slice sender_user_agent() {
    static char agent[64];
    snprintf(agent, sizeof(agent), "whisperer/%s (PostgreSQL %d)", WHISPERER_VERSION, PG_VERSION_NUM / 10000);
    return setting_text(agent);
}

} // namespace whisperer::pg
