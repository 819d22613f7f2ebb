// Why an argument was refused: the field, the fact, and what may be given instead.
#pragma once

#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <string_view>

namespace whisperer::core {

// Plain data; each text is NUL-terminated UTF-8, cut between characters when it is too long. The hint may be
// empty. No text holds control characters, a secret, a password or a header's value: they go to the client
// and to the log.
struct FieldError {
    char field[64];    // argument or key, for instance "target_url" or "retry_countdown_config.kwargs.base"
    char message[256]; // the fact, without a final full stop: `port 0 is not between 1 and 65535`
    char hint[256];    // what to do, a sentence with its full stop
};

// Fills *error; does nothing when error is null, so that a caller who needs only yes or no may pass null.
void set_field_error(FieldError *error, std::string_view field, std::string_view message,
                     std::string_view hint = {}) noexcept;

// Builds such texts in a buffer of fixed size. What does not fit is left out, never in the middle of a
// character.
class FixedText {
  public:
    FixedText() noexcept { buffer_[0] = '\0'; }

    FixedText &add(std::string_view text) noexcept;

    // In double quotes, control characters and what is not UTF-8 as \xNN, cut after max_bytes with "..." in
    // place of the rest.
    FixedText &quote(std::string_view text, size_t max_bytes = 80) noexcept;

    // Shortest usual form, as printf's %g with 15 digits.
    FixedText &number(double value) noexcept;

    std::string_view view() const noexcept { return {buffer_, len_}; }

  private:
    void add_escape(char byte) noexcept;
    void add_whole(std::string_view text) noexcept; // all of it or nothing

    char buffer_[256];
    size_t len_ = 0;
};

} // namespace whisperer::core
