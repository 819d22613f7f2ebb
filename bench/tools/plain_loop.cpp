// What bare libcurl does: the same POSTs that whisperer sends, by a curl_multi loop and nothing else.
//
//   plain_loop URL requests at_once connections [CA file]
//
// Prints requests per second of wall time. The requests are made by whisperer's own request builder, all
// signed and no two of a thousand alike, before the clock starts: what is measured is libcurl alone. Handles
// and connections are reused; the options that matter on the wire (HTTP/2 over TLS with several requests on
// one connection, verified certificates) are those of src/core/http_transfer.cpp.
#include "core/request_builder.hpp"
#include "core/uuid7.hpp"

#include <curl/curl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

using namespace whisperer::core;

struct Request {
    std::string body;
    curl_slist *headers = nullptr;
};

double now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

size_t ignore(char *, size_t size, size_t count, void *) {
    return size * count;
}

std::vector<Request> make_requests(size_t count) {
    std::vector<Request> requests(count);
    RequestBuilder builder;
    for (size_t i = 0; i < count; i++) {
        const std::string payload =
            R"({"a": ")" + std::string(195, 'x') + R"(", "id": )" + std::to_string(100000 + i) + "}";
        RequestParts parts{};
        parts.uuid = make_uuid7(1795460508000000 + static_cast<int64_t>(i), i * 0x9e3779b97f4a7c15);
        parts.event_type = slice("t");
        parts.payload = slice(payload);
        parts.unix_seconds = 1795460508;
        parts.user_agent = slice("whisperer/1.0 (PostgreSQL 15)");
        parts.has_secret = true;
        parts.secret = slice("a secret of the usual length");
        if (!builder.build(parts)) {
            std::fprintf(stderr, "a request cannot be built\n");
            std::exit(1);
        }
        requests[i].body.assign(builder.body().view());
        for (size_t line = 0; line < builder.header_count(); line++)
            requests[i].headers =
                curl_slist_append(requests[i].headers, std::string(builder.headers()[line].view()).c_str());
        for (const char *line : {"Expect:", "Accept:"})
            requests[i].headers = curl_slist_append(requests[i].headers, line);
    }
    return requests;
}

CURL *make_handle(const char *url, const char *ca_file) {
    const bool https = std::strncmp(url, "https:", 6) == 0;
    CURL *easy = curl_easy_init();
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                     static_cast<long>(https ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, https ? 1L : 0L);
    if (ca_file != nullptr)
        curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
    return easy;
}

struct Loop {
    CURLM *multi;
    const std::vector<Request> &requests;
    int wanted;
    bool http2;
    int started = 0;
    int ended = 0;
    int failed = 0;

    void start(CURL *easy) {
        const Request &request = requests[static_cast<size_t>(started++) % requests.size()];
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.body.data());
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request.headers);
        curl_multi_add_handle(multi, easy);
    }

    void take_done() {
        int left = 0;
        while (CURLMsg *message = curl_multi_info_read(multi, &left)) {
            CURL *easy = message->easy_handle;
            const CURLcode result = message->data.result;
            long status = 0;
            long version = 0;
            curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
            curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &version);
            failed += result != CURLE_OK || status != 200 || (version == CURL_HTTP_VERSION_2_0) != http2;
            ended++;
            curl_multi_remove_handle(multi, easy);
            if (started < wanted)
                start(easy);
            else
                curl_easy_cleanup(easy);
        }
    }
};

} // namespace

int main(int argc, char **argv) {
    if (argc < 5 || argc > 6) {
        std::fprintf(stderr, "usage: plain_loop URL requests at_once connections [CA file]\n");
        return 2;
    }
    const char *url = argv[1];
    const int at_once = std::atoi(argv[3]);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    const std::vector<Request> requests = make_requests(1000);
    CURLM *multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_PIPELINING, static_cast<long>(CURLPIPE_MULTIPLEX));
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, std::atol(argv[4]));
    Loop loop{multi, requests, std::atoi(argv[2]), std::strncmp(url, "https:", 6) == 0};
    std::vector<CURL *> handles;
    for (int i = 0; i < at_once && i < loop.wanted; i++)
        handles.push_back(make_handle(url, argc == 6 ? argv[5] : nullptr));
    const double before = now();
    for (CURL *easy : handles)
        loop.start(easy);
    while (loop.ended < loop.wanted) {
        int running = 0;
        curl_multi_perform(multi, &running);
        loop.take_done();
        if (loop.ended < loop.wanted)
            curl_multi_poll(multi, nullptr, 0, 1000, nullptr);
    }
    const double seconds = now() - before;
    if (loop.failed > 0) {
        std::fprintf(stderr, "%d of %d requests failed\n", loop.failed, loop.wanted);
        return 1;
    }
    std::printf("%.1f\n", loop.wanted / seconds);
    return 0;
}
