// What bare libcurl does: the same POSTs that whisperer sends, by a curl_multi loop and nothing else.
//
//   plain_loop URL requests at_once
//
// Prints requests per second of wall time. Headers and body have the sizes of a signed delivery with a
// payload of 300 bytes; handles and connections are reused.
#include <curl/curl.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

namespace {

double now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

size_t ignore(char *, size_t size, size_t count, void *) {
    return size * count;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: plain_loop URL requests at_once\n");
        return 2;
    }
    const char *url = argv[1];
    const int requests = std::atoi(argv[2]);
    const int at_once = std::atoi(argv[3]);
    const std::string body =
        R"({"event": {"type": "t", "uuid": "01a209c929847706ba15ace7da979c47"}, "payload": {"a": ")" +
        std::string(220, 'x') + R"(", "id": 12345}})";
    curl_global_init(CURL_GLOBAL_DEFAULT);
    CURLM *multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, static_cast<long>(at_once));
    curl_slist *headers = nullptr;
    for (const char *line :
         {"Content-Type: application/json", "User-Agent: whisperer/1.0 (PostgreSQL 15)",
          "X-Whisperer-Event: t", "webhook-id: 01a209c9-2984-7706-ba15-ace7da979c47",
          "webhook-timestamp: 1795460508",
          "X-Whisperer-Signature: sha256=fdf2a86dfa46e6a6e8d0d8376b24d2201c93c0ba8813539d1c4c6803c463b5a7",
          "webhook-signature: v1,wrJIFhi6XNOnAC4LRuimEICf/8lTEsM9KMFTsNrwOP0=", "Expect:", "Accept:"})
        headers = curl_slist_append(headers, line);
    int started = 0;
    int ended = 0;
    int failed = 0;
    const double before = now();
    for (; started < at_once && started < requests; started++) {
        CURL *easy = curl_easy_init();
        curl_easy_setopt(easy, CURLOPT_URL, url);
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body.data());
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
        curl_multi_add_handle(multi, easy);
    }
    while (ended < requests) {
        int running = 0;
        curl_multi_perform(multi, &running);
        int left = 0;
        while (CURLMsg *message = curl_multi_info_read(multi, &left)) {
            CURL *easy = message->easy_handle;
            long status = 0;
            curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
            failed += message->data.result != CURLE_OK || status != 200;
            ended++;
            curl_multi_remove_handle(multi, easy);
            if (started < requests) {
                curl_multi_add_handle(multi, easy);
                started++;
            } else
                curl_easy_cleanup(easy);
        }
        if (ended < requests)
            curl_multi_poll(multi, nullptr, 0, 1000, nullptr);
    }
    const double seconds = now() - before;
    if (failed > 0) {
        std::fprintf(stderr, "%d of %d requests failed\n", failed, requests);
        return 1;
    }
    std::printf("%.0f\n", requests / seconds);
    return 0;
}
