// Target URLs, read with libcurl's own parser: what is checked here is what will be dialled.
#pragma once

#include "core/field_error.hpp"
#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace whisperer::core {

constexpr size_t max_url_size = 2048;

struct UrlParts {
    bool https;
    uint16_t port;  // as given, or the scheme's
    bool literal;   // the host is an address, not a name to be looked up
    char host[256]; // NUL-terminated, as libcurl will look it up: percent-decoded, without the brackets of a
                    // v6 address and without its zone; a v4 address in dotted form whatever its spelling was
    char origin[300]; // "https://host" or "https://host:port" (when it is not the scheme's), NUL-terminated:
                      // what may be shown to somebody who may not see the whole URL
};

// http or https, a host, no control characters or spaces, at most max_url_size bytes, no user name
// or password, port 1 to 65535. A fragment is accepted (and never sent). Which addresses may be dialled is
// judged later, at each connect. `field` names the argument in the error: target_url, or config.auth.url.
bool check_url(Slice url, FieldError *error, const char *field = "target_url") noexcept;

// False: check_url() would refuse it, or memory ran out.
bool split_url(Slice url, UrlParts *parts) noexcept;

// Percent-encodes what is not ASCII (RFC 3987, 3.1) and leaves the rest as it is. Throws std::bad_alloc.
std::string percent_encoded(std::string_view text);

} // namespace whisperer::core
