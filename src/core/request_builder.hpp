// The request of one attempt: body and header lines as the contract's section 7 has them.
#pragma once

#include "core/slice.hpp"
#include "core/uuid7.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace whisperer::core {

// What the request is made of. All text is UTF-8.
struct RequestParts {
    Uuid uuid;
    Slice event_type;
    Slice payload;   // or the whole body
    bool whole_body; // a customizer made it
    int64_t unix_seconds;
    Slice user_agent;
    const Slice *user_headers; // "Name: value"
    size_t user_header_count;
    bool has_secret;
    Slice secret;
    Slice authorization; // empty: none; else it replaces the user's own
};

// Reusable, so that its buffers are: the slices given out are valid until the next build().
class RequestBuilder {
  public:
    // False: out of memory; or cannot_sign(), with this secret or this OpenSSL, now or ever.
    bool build(const RequestParts &parts) noexcept;
    bool cannot_sign() const noexcept { return cannot_sign_; }
    Slice body() const noexcept { return slice(body_); }
    const Slice *headers() const noexcept { return lines_.data(); }
    size_t header_count() const noexcept { return lines_.size(); }

  private:
    void add(std::string_view name, std::string_view value);
    std::string body_;
    std::string text_;         // all lines, one after the other
    std::vector<size_t> ends_; // of each line in text_
    std::vector<Slice> lines_;
    bool cannot_sign_ = false;
};

} // namespace whisperer::core
