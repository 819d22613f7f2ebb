// From commit to arrival.
//
//   latency idle CONNECTION PORT TYPE EVENTS
//       one event at a time, the next when it has arrived and a few milliseconds have passed; in turn with as
//       many NOTIFYs to a LISTENing client, once in a transaction that also writes a row and once in one that
//       does not, whose commit waits for no disk. Prints milliseconds: event p50 and p99, p50 of NOTIFY with
//       a row, without.
//   latency rate CONNECTION PORT PREFIX TYPES EVENTS_PER_SECOND SECONDS CONNECTIONS
//       single-event commits at a steady rate, the event types PREFIX0, PREFIX1, … in turn.
//       Prints p50, p99, the longest (milliseconds), and the rate that was reached.
//
// The clock starts when COMMIT is sent: what a commit costs is in both of what is compared. An event that
// does not arrive, or twice, is an error.
#include "arrivals.hpp"

#include <libpq-fe.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <poll.h>
#include <random>
#include <string>
#include <thread>
#include <unistd.h>

namespace {

using bench::Arrivals;
using bench::now;

constexpr double patience = 60; // seconds for anything to arrive

[[noreturn]] void die(const std::string &what) {
    std::fprintf(stderr, "latency: %s\n", what.c_str());
    std::_Exit(1);
}

PGconn *connect(const char *connection) {
    PGconn *session = PQconnectdb(connection);
    if (PQstatus(session) != CONNECTION_OK)
        die(PQerrorMessage(session));
    return session;
}

void run(PGconn *session, const std::string &sql) {
    PGresult *result = PQexec(session, sql.c_str());
    const ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        die(PQerrorMessage(session));
    PQclear(result);
}

// Raises event n in a transaction of its own; returns when COMMIT was sent.
double commit(PGconn *session, const std::string &statement) {
    run(session, "BEGIN; " + statement);
    const double time = now();
    run(session, "COMMIT");
    return time;
}

std::string event(const std::string &type, size_t n) {
    return "SELECT whisperer.deliver_event('{\"n\": " + std::to_string(n) + ", \"a\": \"" +
           std::string(190, 'x') + "\"}'::jsonb, '" + type + "')";
}

void wait_for_arrivals(Arrivals *arrivals, size_t count) {
    if (!arrivals->wait(count, patience))
        die(std::to_string(arrivals->count()) + " events of " + std::to_string(count) + " arrived");
}

double percentile(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    const auto last = static_cast<double>(values.size() - 1);
    return values[static_cast<size_t>(std::lround(share * last))];
}

// Until the thread is asleep, in the poll() that it was on its way to.
void await_sleep(const std::atomic<pid_t> &thread) {
    const double end = now() + patience;
    while (now() < end) {
        std::ifstream stat("/proc/self/task/" + std::to_string(thread.load()) + "/stat");
        std::string text;
        if (std::getline(stat, text) && text.compare(text.rfind(')') + 2, 1, "S") == 0)
            return;
        std::this_thread::yield();
    }
    die("the listening thread does not wait");
}

// Sends a notification from one session and waits for it in another, which blocks in poll() meanwhile.
double notify_once(PGconn *session, PGconn *listener, size_t n, const std::string &before) {
    double arrived = 0;
    std::string got;
    std::atomic<pid_t> thread{0};
    std::thread waiting([&] {
        thread = gettid();
        const double end = now() + patience;
        while (arrived == 0 && now() < end) {
            pollfd fd{PQsocket(listener), POLLIN, 0};
            poll(&fd, 1, 1000);
            if (PQconsumeInput(listener) == 0)
                break;
            while (PGnotify *notification = PQnotifies(listener)) {
                arrived = now();
                got = notification->extra;
                PQfreemem(notification);
            }
        }
    });
    await_sleep(thread);
    const double begin = commit(session, before + "NOTIFY bench, '" + std::to_string(n) + "'");
    waiting.join();
    if (arrived == 0 || got != std::to_string(n))
        die("a notification did not arrive");
    return arrived - begin;
}

int idle(char **argv) {
    const size_t events = static_cast<size_t>(std::atol(argv[5]));
    Arrivals arrivals(std::atoi(argv[3]), events);
    PGconn *session = connect(argv[2]);
    PGconn *listener = connect(argv[2]);
    run(session, "CREATE TABLE IF NOT EXISTS noted (n bigint PRIMARY KEY, a text)");
    run(session, "TRUNCATE noted");
    run(listener, "LISTEN bench");
    std::mt19937 random(1);
    std::uniform_int_distribution<useconds_t> pause(3000, 8000);
    std::vector<double> event_times;
    std::vector<double> row_times;
    std::vector<double> bare_times;
    for (size_t n = 0; n < events; n++) {
        const double begin = commit(session, event(argv[4], n));
        wait_for_arrivals(&arrivals, n + 1);
        event_times.push_back(arrivals.at(n) - begin);
        usleep(pause(random));
        const std::string number = std::to_string(n);
        row_times.push_back(notify_once(session, listener, n,
                                        "INSERT INTO noted VALUES (" + number + ", repeat('x', 200)); "));
        usleep(pause(random));
        bare_times.push_back(notify_once(session, listener, n, ""));
        usleep(pause(random));
    }
    if (arrivals.trouble())
        die("the receiver got what it should not have");
    PQfinish(session);
    PQfinish(listener);
    std::printf("%.4f %.4f %.4f %.4f\n", 1e3 * percentile(event_times, 0.5),
                1e3 * percentile(event_times, 0.99), 1e3 * percentile(row_times, 0.5),
                1e3 * percentile(bare_times, 0.5));
    return 0;
}

int steady(char **argv) {
    const size_t types = static_cast<size_t>(std::atol(argv[5]));
    const double rate = std::atof(argv[6]);
    const auto events = static_cast<size_t>(rate * std::atof(argv[7]));
    const size_t connections = static_cast<size_t>(std::atol(argv[8]));
    Arrivals arrivals(std::atoi(argv[3]), events);
    std::vector<double> begun(events);
    std::vector<PGconn *> sessions;
    for (size_t i = 0; i < connections; i++)
        sessions.push_back(connect(argv[2]));
    std::vector<std::thread> threads;
    const double start = now() + 0.1;
    for (size_t i = 0; i < connections; i++)
        threads.emplace_back([&, i] {
            for (size_t n = i; n < events; n += connections) {
                const double wait = start + static_cast<double>(n) / rate - now();
                if (wait > 0)
                    usleep(static_cast<useconds_t>(wait * 1e6));
                begun[n] = commit(sessions[i], event(argv[4] + std::to_string(n % types), n));
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    const double reached = static_cast<double>(events) / (now() - start);
    wait_for_arrivals(&arrivals, events);
    if (arrivals.trouble())
        die("the receiver got what it should not have");
    for (PGconn *session : sessions)
        PQfinish(session);
    std::vector<double> times;
    for (size_t n = 0; n < events; n++)
        times.push_back(arrivals.at(n) - begun[n]);
    std::printf("%.4f %.4f %.4f %.1f\n", 1e3 * percentile(times, 0.5), 1e3 * percentile(times, 0.99),
                1e3 * percentile(times, 1), reached);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    if (argc == 6 && std::string(argv[1]) == "idle")
        return idle(argv);
    if (argc == 9 && std::string(argv[1]) == "rate")
        return steady(argv);
    std::fprintf(stderr,
                 "usage: latency idle CONNECTION PORT TYPE EVENTS\n"
                 "       latency rate CONNECTION PORT PREFIX TYPES EVENTS_PER_SECOND SECONDS CONNECTIONS\n");
    return 2;
}
