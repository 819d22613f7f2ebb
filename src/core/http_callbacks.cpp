#include "core/http_callbacks.hpp"

#include "core/http_engine_impl.hpp"

#include <cerrno>
#include <new>
#include <openssl/ssl.h>
#include <string_view>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

namespace whisperer::core {

namespace {

constexpr size_t max_header_bytes = 64 << 10; // of all header blocks of a response, interim ones included

bool starts_with(std::string_view text, std::string_view lower_case) noexcept {
    return text.size() >= lower_case.size() &&
           strncasecmp(text.data(), lower_case.data(), lower_case.size()) == 0;
}

// "HTTP/1.1 204 No Content" (RFC 9112, section 4: three digits); 0 if it is none. libcurl checks most of it,
// some versions not that the digits end there.
int status_of(std::string_view line) noexcept {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.size() < space + 4)
        return 0;
    int status = 0;
    for (char digit : line.substr(space + 1, 3)) {
        if (digit < '0' || digit > '9')
            return 0;
        status = 10 * status + (digit - '0');
    }
    return line.size() > space + 4 && line[space + 4] != ' ' ? 0 : status;
}

void keep_header(Transfer &transfer, std::string_view line) {
    if (!transfer.headers.empty())
        transfer.headers.append("\r\n");
    const size_t at = transfer.headers.size();
    transfer.headers.append(line); // first: what follows speaks of it
    constexpr std::string_view retry_after = "retry-after:";
    if (transfer.retry_after_size == 0 && starts_with(line, retry_after)) {
        const size_t first = line.find_first_not_of(" \t", retry_after.size());
        if (first != std::string_view::npos) {
            transfer.retry_after_at = at + first;
            transfer.retry_after_size = line.find_last_not_of(" \t") + 1 - first;
        }
    }
}

// False: this is no HTTP.
bool take_header(Transfer &transfer, std::string_view line) {
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r'))
        line.remove_suffix(1);
    if (transfer.block_ended) {
        if (transfer.status >= 200)
            return true; // a trailer field after a chunked body: counted, not kept
        // A status line: of the first block, or of the one after an interim response (RFC 9110,
        // section 15.2).
        transfer.block_ended = false;
        transfer.status = status_of(line);
        transfer.http1 = starts_with(line, "http/1");
        transfer.headers.clear();
        transfer.retry_after_at = transfer.retry_after_size = 0;
        return transfer.status != 0;
    }
    if (line.empty()) {
        transfer.block_ended = true;
    } else {
        keep_header(transfer, line);
    }
    return true;
}

bool may_use(Transfer &transfer, const Address &address) noexcept {
    if (!transfer.generation->proxy.empty())
        return true; // the proxy's address, set by an operator; the receiver's was judged before
    if (judge(transfer.generation->policy, address) == AddressVerdict::allowed)
        return true;
    transfer.refused = true;
    transfer.refused_address = address;
    return false;
}

// Each record begins with its type, its version and its size.
void on_record(int sent, int, int type, const void *bytes, size_t size, SSL *tls, void *engine) noexcept {
    if (sent || type != SSL3_RT_HEADER || size < 5)
        return;
    const auto *header = static_cast<const unsigned char *>(bytes);
    if (static_cast<Engine *>(engine)->floods(tls, static_cast<size_t>(header[3]) << 8 | header[4]))
        SSL_set_shutdown(tls, SSL_RECEIVED_SHUTDOWN); // nothing more is read of it
}

// libcurl has begun to work with the addresses it was given, so they are in its cache.
void note_pin(Transfer &transfer) noexcept {
    if (transfer.told != nullptr && transfer.told->version == transfer.told_version)
        transfer.told->loaded = transfer.told_version;
}

} // namespace

size_t on_header(char *data, size_t size, size_t count, void *user) noexcept {
    Transfer &transfer = *static_cast<Transfer *>(user);
    const size_t length = size * count;
    transfer.engine->heard();
    transfer.header_bytes += length;
    if (transfer.header_bytes > max_header_bytes) {
        transfer.headers_too_large = true;
        return 0; // ends the transfer
    }
    try {
        if (!take_header(transfer, {data, length})) {
            transfer.bad_status_line = true;
            return 0;
        }
    } catch (const std::bad_alloc &) {
        transfer.out_of_memory = true;
        return 0;
    }
    return length;
}

size_t on_body(char *data, size_t size, size_t count, void *user) noexcept {
    Transfer &transfer = *static_cast<Transfer *>(user);
    const size_t length = size * count;
    transfer.engine->heard();
    const size_t room = transfer.max_response_body - transfer.response_body.size();
    try {
        transfer.response_body.append(data, length < room ? length : room);
    } catch (const std::exception &) {
        transfer.out_of_memory = true;
        return 0;
    }
    if (length <= room)
        return length;
    transfer.truncated = true;
    return 0; // ends the transfer
}

curl_socket_t on_open_socket(void *user, curlsocktype, curl_sockaddr *address) noexcept {
    Transfer &transfer = *static_cast<Transfer *>(user);
    note_pin(transfer);
    Address dialled;
    if (!read_sockaddr(&address->addr, &dialled) || !may_use(transfer, dialled))
        return CURL_SOCKET_BAD;
    transfer.dialled = true;
    const int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    // What concerns this address only, such as a family that the kernel does not have, is no shortage.
    const bool shortage = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (fd < 0) {
        if (shortage)
            transfer.socket_error = errno; // and stays so: another address may not answer
        return CURL_SOCKET_BAD;
    }
    if (!transfer.engine->sockets().opened(fd, transfer.generation)) {
        close(fd);
        transfer.socket_error = ENOMEM;
        return CURL_SOCKET_BAD;
    }
    return fd;
}

int on_close_socket(void *user, curl_socket_t fd) noexcept {
    static_cast<Engine *>(user)->sockets().closed(fd);
    return close(fd);
}

int on_ready(void *user, char *remote, char *, int, int local_port) noexcept {
    Transfer &transfer = *static_cast<Transfer *>(user);
    note_pin(transfer);
    SocketSet::Since &since = transfer.begun;
    const bool known = parse_address(remote, &since.remote);
    if (transfer.generation->proxy.empty() && (!known || !may_use(transfer, since.remote)))
        return CURL_PREREQFUNC_ABORT;
    since.local_port = known ? static_cast<uint16_t>(local_port) : 0;
    since.look = transfer.engine->sockets().looks();
    transfer.engine->begin_response(transfer);
    return CURL_PREREQFUNC_OK;
}

int on_resolver_start(void *, void *, void *user) noexcept {
    const Transfer &transfer = *static_cast<Transfer *>(user);
    const Generation &generation = *transfer.generation;
    const UrlParts &dialled = generation.proxy.empty() ? transfer.target : generation.proxy_parts;
    return dialled.literal ? 0 : 1;
}

CURLcode on_tls(CURL *, void *context, void *engine) noexcept {
    auto *tls = static_cast<SSL_CTX *>(context);
    SSL_CTX_set_msg_callback(tls, on_record);
    SSL_CTX_set_msg_callback_arg(tls, engine);
    return CURLE_OK;
}

} // namespace whisperer::core
