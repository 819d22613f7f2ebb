// URLs that are not ASCII: internationalized host names, and the rest percent-encoded.
#include "core/http_transfer.hpp"

#include <algorithm>
#include <clocale>
#include <cstring>
#include <langinfo.h>
#include <memory>

namespace whisperer::core {

namespace {

bool is_ascii(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

#if LIBCURL_VERSION_NUM >= 0x075800

// Libcurl takes names for text in the encoding of the thread's locale, which is the database's: in Latin-1
// the two bytes of an umlaut are two letters, and make another, valid name.
class Utf8Locale {
  public:
    Utf8Locale() noexcept {
        static const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", locale_t{});
        if (utf8 != locale_t{})
            before_ = uselocale(utf8);
    }
    ~Utf8Locale() {
        if (before_ != locale_t{})
            uselocale(before_);
    }
    Utf8Locale(const Utf8Locale &) = delete;
    Utf8Locale &operator=(const Utf8Locale &) = delete;

    // False: there is no such locale.
    static bool holds() noexcept { return std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

  private:
    locale_t before_{};
};

std::string ascii_host(const std::string &url) {
    std::string ascii;
    const Utf8Locale locale;
    if (!Utf8Locale::holds())
        return ascii;
    const std::unique_ptr<CURLU, void (*)(CURLU *)> parsed(curl_url(), curl_url_cleanup);
    if (parsed == nullptr || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK)
        return ascii;
    char *part = nullptr;
    const CURLUcode rc = curl_url_get(parsed.get(), CURLUPART_HOST, &part, CURLU_PUNYCODE);
#if LIBCURL_VERSION_NUM >= 0x080000
    if (rc != CURLUE_OK)
        part = nullptr;
#endif
    // Until 8.0 a failed conversion leaves the unconverted host behind.
    const std::unique_ptr<char, void (*)(void *)> owner(part, curl_free);
    if (rc == CURLUE_OK)
        ascii = part;
    return ascii;
}

#else

std::string ascii_host(const std::string &) {
    return std::string();
}

#endif

} // namespace

std::string ascii_url(std::string_view url, UrlParts *parts) {
    const std::string scheme = parts->https ? "https://" : "http://";
    const size_t path = std::min(url.find_first_of("/\\?#", scheme.size()), url.size());
    // libcurl would encode the path, but send a query as it is.
    const std::string rest = percent_encoded(url.substr(path));
    if (is_ascii(parts->host))
        return std::string(url.substr(0, path)) + rest;
    const std::string host = ascii_host(std::string(url));
    if (host.empty() || !is_ascii(host))
        return std::string();
    const std::string origin = scheme + host + ':' + std::to_string(parts->port);
    // Some characters become others that mean something in a URL: a wide "/" a "/".
    UrlParts converted{};
    if (!split_url(slice(origin), &converted) || host != converted.host)
        return std::string();
    *parts = converted;
    return origin + rest;
}

} // namespace whisperer::core
