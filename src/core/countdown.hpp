// How long to wait before the next attempt.
//
// The built-in countdowns: fixed, linear, exponential, random, schedule. Each value is made in this order:
// the choice's value, its limit, jitter, then clamped to 0 ... 30 days. Custom countdowns are SQL functions
// and unknown here.
#pragma once

#include "core/field_error.hpp"
#include "core/no_postgres.hpp"
#include "core/slice.hpp"

#include <cstddef>
#include <cstdint>

namespace whisperer::core {

constexpr double max_countdown_seconds = 30.0 * 24 * 60 * 60;

// One key of "kwargs", taken from JSON by the caller.
struct Kwarg {
    enum class Kind : uint8_t {
        number,  // a JSON number: `number` and `whole` are set
        numbers, // a JSON array of nothing but numbers, possibly empty: `numbers` and `count` are set
        other    // anything else, null and arrays with other elements included
    };
    Slice name;
    Kind kind;
    double number; // a JSON number too large for double comes as infinity, and is refused
    const double *numbers;
    size_t count;
    bool whole; // the JSON number has no fractional part (5 and 5.0; double cannot tell for very large ones)
};

// `{"choice": ..., "kwargs": {...}}`. An empty choice means that there was none.
struct CountdownInput {
    Slice choice;
    const Kwarg *kwargs;
    size_t kwarg_count;
};

enum class CountdownKind : uint8_t { fixed, linear, exponential, random, schedule };

// Flat and plain; make it with make_countdown() or default_countdown(). Members a kind does not use are zero.
struct Countdown {
    CountdownKind kind;
    bool whole;             // random: only whole values
    double seconds;         // fixed
    double base;            // linear, exponential
    double factor;          // exponential
    double limit;           // linear, exponential; infinity when there is none
    double min_value;       // random
    double max_value;       // random
    double jitter;          // 0 to 1, all kinds
    const double *schedule; // schedule; the caller's array, which must live as long as the Countdown is used
    size_t schedule_count;
};

// Randomness from the caller.
struct Random {
    double (*uniform)(void *context); // in [0, 1), at least 48 random bits; must not throw
    void *context;
};

// Is it the name of a built-in countdown?
bool is_builtin_choice(Slice choice) noexcept;

// The names of the built-in countdowns, for messages and hints: "fixed, linear, ...".
const char *builtin_choices() noexcept;

// False: refused, and *error says which kwarg it was and what it may be. The schedule's array is not copied.
bool make_countdown(const CountdownInput &input, Countdown *countdown, FieldError *error) noexcept;

// The schedule of the Standard Webhooks specification with jitter 0.1, used when a subscription names none.
const Countdown &default_countdown() noexcept;

// Seconds until the next attempt, 0 ... 30 days, never NaN. `attempts`: attempts made so far, 1 after the
// first failure (less counts as 1).
double countdown_seconds(const Countdown &countdown, int attempts, const Random &random) noexcept;

} // namespace whisperer::core
