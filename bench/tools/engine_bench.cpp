// How much of bare libcurl's throughput the HTTP engine keeps.
//
//   engine_bench URL [requests] [at once]
//
// Sends the same number of POSTs to a server on loopback (nginx with keepalive_requests raised and "return
// 200", say) first with a plain curl_multi loop that reuses its handles, then with the engine, in turn, and
// prints requests per second of processor time of this process and their ratio. Processor time, for the
// server may share the core.
#include "core/http_engine.hpp"

#include <curl/curl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <poll.h>
#include <string>
#include <vector>

using namespace whisperer::core;

namespace {

const std::string body(300, 'x');
const std::vector<std::string> header_lines = {
    "Content-Type: application/json", "User-Agent: bench", "X-Whisperer-Event: bench",
    "webhook-id: 019abc00-0000-7000-8000-000000000000", "webhook-timestamp: 1700000000"};

[[noreturn]] void die(const char *what, int count) {
    fprintf(stderr, "%d %s\n", count, what);
    exit(1);
}

double processor_seconds() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

Micros monotonic() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * Micros{1000000} + time.tv_nsec / 1000;
}

size_t ignore(char *, size_t size, size_t count, void *) {
    return size * count;
}

double plain(const char *url, int requests, int at_once) {
    CURLM *multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, static_cast<long>(at_once));
    curl_slist *headers = nullptr;
    for (const std::string &line : header_lines)
        headers = curl_slist_append(headers, line.c_str());
    headers = curl_slist_append(curl_slist_append(headers, "Expect:"), "Accept:");
    int started = 0;
    int ended = 0;
    int failed = 0;
    std::vector<CURL *> handles;
    const double before = processor_seconds();
    for (; started < at_once; started++) {
        CURL *easy = curl_easy_init();
        curl_easy_setopt(easy, CURLOPT_URL, url);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body.data());
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
        curl_multi_add_handle(multi, easy);
        handles.push_back(easy);
    }
    while (ended < requests) {
        int running = 0;
        curl_multi_perform(multi, &running);
        int left = 0;
        bool more = false;
        while (CURLMsg *message = curl_multi_info_read(multi, &left)) {
            CURL *easy = message->easy_handle;
            failed += message->data.result != CURLE_OK ? 1 : 0;
            ended++;
            curl_multi_remove_handle(multi, easy);
            if (started < requests) {
                started++;
                curl_multi_add_handle(multi, easy);
                more = true;
            }
        }
        if (!more && ended < requests)
            curl_multi_poll(multi, nullptr, 0, 1000, nullptr);
    }
    const double time = processor_seconds() - before;
    for (CURL *easy : handles) {
        curl_multi_remove_handle(multi, easy);
        curl_easy_cleanup(easy);
    }
    curl_multi_cleanup(multi);
    curl_slist_free_all(headers);
    if (failed > 0)
        die("plain requests failed", failed);
    return requests / time;
}

double with_engine(const char *url, int requests, int at_once) {
    AddressPolicy policy{};
    policy.allowed_count = 1;
    policy.allowed[0] = {{false, {127, 0, 0, 0}}, 8};
    EngineSettings settings{};
    settings.policy = &policy;
    settings.max_connections = static_cast<size_t>(at_once);
    const std::unique_ptr<HttpEngine> engine(HttpEngine::create(settings, monotonic()));
    if (engine == nullptr)
        return 0;
    std::vector<Slice> headers;
    for (const std::string &line : header_lines)
        headers.push_back(slice(line));
    const HttpRequest request{1,           slice(url), headers.data(), headers.size(),
                              slice(body), 5000000,    30000000,       65536};
    int started = 0;
    int ended = 0;
    int failed = 0;
    const double before = processor_seconds();
    while (ended < requests) {
        while (started < requests && started - ended < at_once && engine->add(request, monotonic()))
            started++;
        pollfd fd{engine->wait_fd(), POLLIN, 0};
        poll(&fd, 1, engine->timeout_ms(monotonic()));
        engine->step(monotonic());
        while (const HttpResult *result = engine->peek_done()) {
            failed += result->failure != Failure::none ? 1 : 0;
            if (result->failure != Failure::none && failed == 1)
                fprintf(stderr, "%.*s\n", static_cast<int>(result->error.len), result->error.data);
            engine->pop_done();
            ended++;
        }
    }
    const double time = processor_seconds() - before;
    if (failed > 0)
        die("engine requests failed", failed);
    return requests / time;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s URL [requests] [at once]\n", argv[0]);
        return 2;
    }
    const int requests = argc > 2 ? std::max(1, atoi(argv[2])) : 50000;
    const int at_once = std::min(requests, argc > 3 ? std::max(1, atoi(argv[3])) : 32);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    const double bare = plain(argv[1], requests, at_once);
    const double engine = with_engine(argv[1], requests, at_once);
    printf("%.0f %.0f\n", bare, engine);
    return 0;
}
