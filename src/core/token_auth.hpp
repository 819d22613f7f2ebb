// Token authentication: user name and password go as a form to a token server, and the token that it answers
// with goes into the Authorization header of the deliveries.
#pragma once

#include "core/http_engine.hpp"
#include "core/slice.hpp"

#include <string>
#include <string_view>

namespace whisperer::core {

// config.auth with "auth_type": "token", defaults filled in. An empty url: there is none.
struct TokenFields {
    Slice url;
    Slice username_field;
    Slice username;
    Slice password_field;
    Slice password;
    Slice token_key;     // member of the answer
    Slice header_format; // of the Authorization header's value, with {} for the token
};

// A token is used for so long, or until it is answered with 401.
constexpr Micros token_lifetime = 3600LL * 1000 * 1000;
// What is read of an answer, and how long a token may be.
constexpr size_t max_token_answer = 64 * 1024;
constexpr size_t max_token_size = 8192;

// The request's body, application/x-www-form-urlencoded (WHATWG URL Standard, section 5.2). Throws
// std::bad_alloc.
std::string token_form(const TokenFields &fields);

// What came of a token request: the value of the Authorization header, or why there is none, for the
// delivery's record. The answer's body and the token get into no error. Throws std::bad_alloc.
struct TokenAnswer {
    std::string authorization;
    std::string error; // empty: success
};
TokenAnswer read_token_answer(const HttpResult &http, std::string_view url, std::string_view token_key,
                              std::string_view header_format);

} // namespace whisperer::core
