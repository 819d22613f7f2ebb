// Whatever the kwargs, the draws and the attempt: a wait between 0 and 30 days, and a verdict that holds it.
#include "core/countdown.hpp"
#include "core/retry_after.hpp"
#include "core/verdict.hpp"
#include "fuzz.hpp"

#include <vector>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

double draw(void *context) {
    return static_cast<double>(static_cast<Input *>(context)->number<uint32_t>()) / 4294967296.0;
}

constexpr std::string_view names[] = {"seconds",   "base",   "limit", "factor", "min_value",
                                      "max_value", "jitter", "",      "other"};
constexpr std::string_view choices[] = {"fixed", "linear", "exponential", "random", "schedule"};

// Any double at all, or one of those that people write.
double take_number(Input &input) {
    const uint8_t kind = input.byte();
    return kind < 128 ? kind : kind < 192 ? kind / 64.0 - 2 : input.number<double>();
}

void judge_with(Input &input, double seconds) {
    Attempt attempt{};
    attempt.failure = static_cast<Failure>(input.byte() % 12);
    attempt.status = input.number<int16_t>();
    attempt.attempts = input.number<int>();
    attempt.max_attempts = input.number<int>();
    attempt.countdown_seconds = input.byte() % 2 == 0 ? seconds : input.number<double>();
    attempt.retry_after = input.number<int>();
    const Verdict verdict = judge_attempt(attempt);
    require(verdict.wait_seconds >= 0 && verdict.wait_seconds <= max_countdown_seconds);
    require(verdict.pause_seconds >= 0 && verdict.pause_seconds <= max_retry_after_seconds);
    require(verdict.outcome == Outcome::retry || verdict.wait_seconds == 0);
    require(verdict.outcome != Outcome::retry || verdict.wait_seconds >= verdict.pause_seconds);
    require(verdict.outcome != Outcome::retry || attempt.attempts < attempt.max_attempts);
    const bool good = attempt.failure == Failure::none && attempt.status / 100 == 2;
    require((verdict.outcome == Outcome::delivered) == good);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const uint8_t choice = input.byte();
    std::vector<Kwarg> kwargs(input.byte() % 6);
    std::vector<std::vector<double>> arrays(kwargs.size());
    for (size_t i = 0; i < kwargs.size(); i++) {
        Kwarg &kwarg = kwargs[i];
        const uint8_t name = input.byte();
        kwarg.name = slice(name < 250 ? names[name % 9] : input.text());
        kwarg.kind = static_cast<Kwarg::Kind>(input.byte() % 3);
        kwarg.number = take_number(input);
        kwarg.whole = input.byte() % 2 != 0;
        arrays[i].resize(input.byte() % 5);
        for (double &number : arrays[i])
            number = take_number(input);
        kwarg.numbers = arrays[i].data();
        kwarg.count = arrays[i].size();
    }
    const CountdownInput given = {slice(choice < 250 ? choices[choice % 5] : input.text()), kwargs.data(),
                                  kwargs.size()};
    Countdown countdown{};
    FieldError error{};
    if (!make_countdown(given, &countdown, &error)) {
        require(error.message[0] != '\0' && !has_control_character(error.message));
        require(valid_utf8(slice(error.message)) && valid_utf8(slice(error.hint)));
        countdown = default_countdown();
    } else
        require(is_builtin_choice(given.choice));
    const Random random = {draw, &input};
    for (int attempts : {1, 2, 18, static_cast<int>(input.number<int>())}) {
        const double seconds = countdown_seconds(countdown, attempts, random);
        require(seconds >= 0 && seconds <= max_countdown_seconds); // not NaN, either
        judge_with(input, seconds);
    }
    return 0;
}
