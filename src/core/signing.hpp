// Signatures of a request's body.
//
// Two headers carry one each:
// - X-Whisperer-Signature: "sha256=<hex>", HMAC-SHA256 of the body with all bytes of the secret;
// - webhook-signature: "v1,<base64>", HMAC-SHA256 of "<webhook-id>.<webhook-timestamp>.<body>" (Standard
// Webhooks
//   specification), where a secret beginning "whsec_" stands for the bytes whose base64 follows, and any
//   other for its own.
//
// Base64 is RFC 4648, section 4: standard alphabet, padding required (as the reference libraries in Python
// and Go have it), no white space. Unused bits of the last character need not be zero.
#pragma once

#include "core/field_error.hpp"
#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <cstdint>

namespace whisperer::core {

// Sizes of the texts with their final NUL.
constexpr size_t body_signature_size = sizeof("sha256=") + 64;
constexpr size_t webhook_signature_size = sizeof("v1,") + 44;

constexpr size_t max_secret_size = 64 * 1024;

// Refuses an empty secret, a longer one than that, and "whsec_" followed by bad base64 or by nothing. The
// error never shows the secret.
bool check_secret(Slice secret, FieldError *error) noexcept;

// Both write a NUL-terminated text. False: OpenSSL failed or memory ran out (or the secret would not pass
// check_secret()); `out` is then empty.
bool sign_body(Slice secret, Slice body, char (&out)[body_signature_size]) noexcept;
bool sign_webhook(Slice secret, Slice webhook_id, int64_t unix_seconds, Slice body,
                  char (&out)[webhook_signature_size]) noexcept;

} // namespace whisperer::core
