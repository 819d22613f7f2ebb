// Whatever the text: no crash, and what is accepted holds what check_url() promises.
#include "core/url.hpp"
#include "core/utf8.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>

using namespace whisperer::core;

namespace {
void require(bool condition) {
    if (!condition)
        abort();
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Slice url = {reinterpret_cast<const char *>(data), size};
    FieldError error{};
    UrlParts parts{};
    bool good = check_url(url, &error);
    require(good == split_url(url, &parts));
    if (!good) {
        require(error.message[0] != '\0' && !has_control_character(error.message));
        require(valid_utf8(slice(error.message)));
        return 0;
    }
    require(size <= max_url_size && !has_control_character(url.view()) && valid_utf8(url));
    require(parts.host[0] != '\0' && parts.port != 0);
    require(strlen(parts.host) <= 254 && !has_control_character(parts.host));
    require(strpbrk(parts.host, "/?#@\\ ") == nullptr);
    // What may be shown of it is a URL again, and the same place.
    UrlParts again{};
    require(split_url(slice(parts.origin), &again));
    require(strcmp(parts.host, again.host) == 0 && parts.port == again.port && parts.https == again.https);
    return 0;
}
