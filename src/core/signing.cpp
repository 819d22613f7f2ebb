#include "core/signing.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>

namespace whisperer::core {

namespace {

constexpr std::string_view encoded_prefix = "whsec_";
constexpr size_t digest_size = 32;

struct FreeContext {
    void operator()(EVP_MAC_CTX *context) const { EVP_MAC_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MAC_CTX, FreeContext>;

// A context for HMAC-SHA256, made once in each thread: looking the algorithm up costs more than signing a
// usual body. It keeps the key it was used with last, which is mostly the next one's too: setting a key costs
// as much as signing. Null: OpenSSL has none, or memory ran out; tried again at the next call.
struct Signer {
    Context context;
    bool restarts = false; // EVP_MAC_init() without a key begins again with the last one
    std::string key;       // empty: none

    ~Signer() { forget(); }
    void forget() {
        OPENSSL_cleanse(key.data(), key.size());
        key.clear();
    }
};

// Up to OpenSSL 3.0.2, and with such a provider, that does nothing and says it did (openssl issue 17811).
bool restarts(EVP_MAC_CTX *context) {
    const unsigned char key[] = "key";
    unsigned char digests[2][digest_size] = {};
    for (unsigned char *digest : {digests[0], digests[1]}) {
        size_t written = 0;
        if (EVP_MAC_init(context, digest == digests[0] ? key : nullptr, digest == digests[0] ? 3 : 0,
                         nullptr) != 1 ||
            EVP_MAC_update(context, key, 3) != 1 ||
            EVP_MAC_final(context, digest, &written, digest_size) != 1)
            return false;
    }
    return memcmp(digests[0], digests[1], digest_size) == 0;
}

// The two signatures have different keys where the secret is an encoded one.
enum class Kind : uint8_t { body, webhook };

Signer *signer(Kind kind) {
    static thread_local Signer of_kind[2];
    Signer &prepared = of_kind[static_cast<size_t>(kind)];
    if (prepared.context == nullptr) {
        EVP_MAC *mac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
        if (mac == nullptr)
            return nullptr;
        Context made(EVP_MAC_CTX_new(mac));
        EVP_MAC_free(mac); // the context holds its own reference
        char digest[] = "SHA256";
        OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                               OSSL_PARAM_construct_end()};
        if (made == nullptr || EVP_MAC_CTX_set_params(made.get(), params) != 1)
            return nullptr;
        prepared.restarts = restarts(made.get());
        prepared.context = std::move(made);
    }
    return &prepared;
}

// Ready for the first byte to be signed with the key.
bool begin(Signer *with, std::string_view key) {
    if (with->restarts && with->key == key)
        return EVP_MAC_init(with->context.get(), nullptr, 0, nullptr) == 1;
    with->forget();
    if (EVP_MAC_init(with->context.get(), reinterpret_cast<const unsigned char *>(key.data()), key.size(),
                     nullptr) != 1)
        return false;
    try {
        with->key.assign(key);
    } catch (const std::bad_alloc &) {
        with->key.clear(); // it is set again the next time
    }
    return true;
}

const unsigned char *bytes(std::string_view text) {
    return reinterpret_cast<const unsigned char *>(text.data());
}

// HMAC-SHA256 of the parts one after the other.
bool hmac(Kind kind, std::string_view key, const std::string_view *parts, size_t count,
          unsigned char (&digest)[digest_size]) {
    Signer *with = signer(kind);
    if (with == nullptr || key.empty() || !begin(with, key))
        return false;
    EVP_MAC_CTX *context = with->context.get();
    for (size_t i = 0; i < count; i++)
        if (!parts[i].empty() && EVP_MAC_update(context, bytes(parts[i]), parts[i].size()) != 1)
            return false;
    size_t written = 0;
    return EVP_MAC_final(context, digest, &written, sizeof(digest)) == 1 && written == digest_size;
}

bool in_base64_alphabet(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

// EVP_DecodeBlock skips white space and takes '=' anywhere, hence this before it. Empty text is refused.
bool is_base64(std::string_view text) {
    if (text.empty() || text.size() % 4 != 0)
        return false;
    size_t padding = text.back() != '=' ? 0 : text[text.size() - 2] != '=' ? 1 : 2;
    text.remove_suffix(padding);
    for (char c : text)
        if (!in_base64_alphabet(c))
            return false;
    return true;
}

bool is_encoded(std::string_view secret) {
    return secret.substr(0, encoded_prefix.size()) == encoded_prefix;
}

// A decoded secret, wiped after use.
struct Key {
    std::unique_ptr<unsigned char[]> data;
    size_t capacity = 0;
    size_t len = 0;

    Key() = default;
    Key(const Key &) = delete;
    Key &operator=(const Key &) = delete;
    ~Key() {
        if (data != nullptr)
            OPENSSL_cleanse(data.get(), capacity);
    }

    bool decode(std::string_view base64) {
        if (!is_base64(base64) || base64.size() > INT_MAX)
            return false;
        capacity = base64.size() / 4 * 3;
        data.reset(new (std::nothrow) unsigned char[capacity]);
        if (data == nullptr)
            return false;
        // Counts the padding's bytes, zero, as data.
        int decoded = EVP_DecodeBlock(data.get(), bytes(base64), static_cast<int>(base64.size()));
        if (decoded < 0)
            return false;
        size_t padding = base64[base64.size() - 2] == '=' ? 2 : base64.back() == '=' ? 1 : 0;
        len = static_cast<size_t>(decoded) - padding;
        return true;
    }
};

} // namespace

bool check_secret(Slice secret, FieldError *error) noexcept {
    if (secret.empty()) {
        set_field_error(error, "secret_key", "secret_key is empty",
                        "Give at least one character, or NULL for requests without a signature.");
        return false;
    }
    if (secret.len > max_secret_size) {
        set_field_error(error, "secret_key", "is longer than 65536 bytes", "32 random bytes are enough.");
        return false;
    }
    std::string_view text = secret.view();
    if (is_encoded(text) && !is_base64(text.substr(encoded_prefix.size()))) {
        set_field_error(
            error, "secret_key", "secret_key begins with \"whsec_\", and what follows is not base64",
            "After \"whsec_\" comes base64 with the standard alphabet and padding; any other secret "
            "is used as it is.");
        return false;
    }
    return true;
}

bool sign_body(Slice secret, Slice body, char (&out)[body_signature_size]) noexcept {
    unsigned char digest[digest_size];
    std::string_view part = body.view();
    out[0] = '\0';
    if (!hmac(Kind::body, secret.view(), &part, 1, digest))
        return false;
    constexpr char digits[] = "0123456789abcdef";
    memcpy(out, "sha256=", 7);
    char *p = out + 7;
    for (unsigned char byte : digest) {
        *p++ = digits[byte >> 4];
        *p++ = digits[byte & 15];
    }
    *p = '\0';
    return true;
}

bool sign_webhook(Slice secret, Slice webhook_id, int64_t unix_seconds, Slice body,
                  char (&out)[webhook_signature_size]) noexcept {
    out[0] = '\0';
    Key decoded;
    std::string_view key = secret.view();
    if (is_encoded(key)) {
        if (!decoded.decode(key.substr(encoded_prefix.size())))
            return false;
        key = {reinterpret_cast<const char *>(decoded.data.get()), decoded.len};
    }
    char stamp[32];
    int stamp_size = snprintf(stamp, sizeof(stamp), ".%lld.", static_cast<long long>(unix_seconds));
    std::string_view parts[] = {webhook_id.view(), {stamp, static_cast<size_t>(stamp_size)}, body.view()};
    unsigned char digest[digest_size];
    if (!hmac(Kind::webhook, key, parts, 3, digest))
        return false;
    memcpy(out, "v1,", 3);
    EVP_EncodeBlock(reinterpret_cast<unsigned char *>(out + 3), digest, digest_size); // writes the final NUL
    return true;
}

} // namespace whisperer::core
