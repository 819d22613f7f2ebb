// One request of the HTTP engine and its libcurl handle. Internal to the engine.
#pragma once

#include "core/http_engine.hpp"
#include "core/http_sockets.hpp"
#include "core/resolver.hpp"
#include "core/url.hpp"

#include <curl/curl.h>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace whisperer::core {

class Engine;
struct Transfer;

// The addresses of one name at one port, as libcurl has been told them (CURLOPT_RESOLVE), so that it never
// starts a look-up of its own.
struct Pin {
    std::string host;
    uint16_t port = 0;
    Resolver::Addresses answer;  // what `usable` was made of
    std::vector<Address> usable; // those the policy allows, in the order to try
    Address refused{};           // one it does not, if there is none usable
    std::string entry;           // as CURLOPT_RESOLVE wants it: "host:port:address,address"
    unsigned version = 0;        // of `entry`
    unsigned loaded = 0;         // the version that is surely in libcurl's cache

    void write_entry();  // after a change to `usable`; throws std::bad_alloc
    void demote_first(); // the first address did not answer: puts it last; throws std::bad_alloc
};

// The system's certificates, all in one file; null: it has none.
const char *system_ca_file() noexcept;

// What tells that a file is no longer the same; all zero: there is none.
struct FileVersion {
    uint64_t device = 0;
    uint64_t inode = 0;
    int64_t size = 0;
    int64_t seconds = 0; // of its last change
    int64_t nanoseconds = 0;

    static FileVersion of(const char *path) noexcept; // null: none
    bool operator==(const FileVersion &other) const noexcept;
};

// Everything made under one set of settings: connections are never shared between two.
struct Generation {
    Engine *engine = nullptr;
    uint64_t id = 0;
    AddressPolicy policy{};
    std::string ca_file;
    FileVersion certificates; // which those are that it believes
    std::string proxy;
    UrlParts proxy_parts{};
    size_t max_connections = 0;
    CURLM *multi = nullptr;
    bool timer_set = false;
    Micros timer = 0;    // when libcurl wants to be called
    size_t users = 0;    // requests taken under it and not ended
    bool current = true; // false: is being drained
    std::unordered_map<std::string, Pin> pins;

    Generation() = default;
    ~Generation();
    Generation(const Generation &) = delete;
    Generation &operator=(const Generation &) = delete;

    // Takes an answer for a name into its pin. Judges the addresses unless it is the proxy's. Throws
    // std::bad_alloc.
    Pin &pin(const std::string &host, uint16_t port, const Resolver::Addresses &answer, bool for_proxy);
};

enum class Phase : uint8_t { idle, lookup, connect, response, done };

struct Transfer {
    Engine *engine = nullptr;
    Generation *generation = nullptr;
    CURL *easy = nullptr;
    uint64_t made_for = 0;   // the generation that the handle belongs to
    uint64_t options_of = 0; // the generation whose options the handle carries; 0: none
    bool https_options = false;
    size_t pool_index = 0;
    bool attached = false; // the handle is in the generation's multi handle
    Phase phase = Phase::idle;

    // The request.
    uint64_t tag = 0;
    std::string url;
    std::string dialled_url; // the same with its host in ASCII
    std::string handle_url;  // as last given to the handle
    UrlParts target{};       // of dialled_url
    std::string host;
    std::string body;
    std::string header_text;             // the lines, each NUL-terminated
    std::vector<curl_slist> header_list; // nodes that point into header_text
    Micros connect_timeout = 0;
    Micros response_timeout = 0;
    size_t max_response_body = 0;

    // Time: `deadline` and `wake` on the engine's clock (which leaves out stalls), the others on the owner's.
    Micros added_at = 0;
    Micros launched_at = 0;
    Micros deadline = 0;
    Micros wake = 0; // when to look at it: its deadline, or the time to try another address
    size_t heap_index = SIZE_MAX;

    // The way to the receiver.
    std::string awaited;       // the name whose look-up it waits for
    Pin *pin = nullptr;        // the receiver's addresses; null: the URL has an address in it
    unsigned dial_version = 0; // of `pin`, when it was last launched
    Pin *told = nullptr;       // what libcurl was told: `pin`, or the proxy's addresses, or nothing
    unsigned told_version = 0;
    std::string resolve_entry;
    curl_slist resolve_list{};
    std::string connect_entry;
    curl_slist connect_list{};
    bool dialled = false; // an address was allowed and dialled
    bool refused = false; // and one was not
    Address refused_address{};
    SocketSet::Since begun; // the request, on its connection
    int socket_error = 0;   // why this process could not make a socket

    // The response.
    std::string headers;
    std::string response_body;
    size_t header_bytes = 0;
    int status = 0;
    bool block_ended = true; // between header blocks: the next line is a status line, or a trailer
    bool http1 = false;      // the response came by HTTP/1
    bool truncated = false;
    bool headers_too_large = false;
    bool bad_status_line = false;
    bool out_of_memory = false;
    size_t retry_after_at = 0;
    size_t retry_after_size = 0;

    Failure failure = Failure::none;
    Micros elapsed = 0;
    char curl_error[CURL_ERROR_SIZE] = "";
    char error[CURL_ERROR_SIZE + 256] = "";

    Transfer *previous = nullptr; // among those that wait for the same name
    Transfer *next = nullptr;
    Transfer *next_done = nullptr;

    Transfer() = default;
    ~Transfer();
    Transfer(const Transfer &) = delete;
    Transfer &operator=(const Transfer &) = delete;

    // Copies a request into it. Null, or why it cannot be sent. Throws std::bad_alloc.
    const char *take(const HttpRequest &request);

    // Gives the handle the options of its generation and the request. False: libcurl is out of memory.
    bool set_options();

    // Forgets the request and the response, keeps the handle and a reasonable amount of memory.
    void clear() noexcept;

    // Writes `error`, one line.
    void explain(const char *format, ...) noexcept __attribute__((format(printf, 2, 3)));

  private:
    bool set_generation_options();
};

// A URL in ASCII: an internationalized name is converted (RFC 5891), in `parts`, too, and the rest is
// percent-encoded. Empty: the name cannot be converted. Throws std::bad_alloc.
std::string ascii_url(std::string_view url, UrlParts *parts);

// "address 127.0.0.1 (loopback) is not allowed; see whisperer.allowed_networks"
void explain_refusal(Transfer &transfer, const Address &address) noexcept;

// Reads the outcome of a transfer that libcurl has ended: failure, status and error.
void judge_outcome(Transfer &transfer, CURLcode code) noexcept;

// The same for one that ran out of time; `now` on the owner's clock.
void judge_timeout(Transfer &transfer, Micros now) noexcept;

// An address as text, v6 in brackets. The buffer takes at least 64 bytes.
void format_address(const Address &address, char *buffer, size_t size) noexcept;

// The other way round, without brackets; false: it is none.
bool parse_address(const char *text, Address *address) noexcept;

} // namespace whisperer::core
