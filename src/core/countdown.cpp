#include "core/countdown.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

namespace whisperer::core {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr size_t max_kwargs = 4;

struct Choice {
    std::string_view name;
    CountdownKind kind;
    std::string_view kwargs[max_kwargs]; // in the order of the manual, jitter last
};

constexpr Choice choices[] = {
    {"fixed", CountdownKind::fixed, {"seconds", "jitter"}},
    {"linear", CountdownKind::linear, {"base", "limit", "jitter"}},
    {"exponential", CountdownKind::exponential, {"base", "factor", "limit", "jitter"}},
    {"random", CountdownKind::random, {"min_value", "max_value", "jitter"}},
    {"schedule", CountdownKind::schedule, {"seconds", "jitter"}},
};
constexpr const char *choice_names = "fixed, linear, exponential, random, schedule";

const Choice *find_choice(Slice name) {
    for (const Choice &choice : choices)
        if (choice.name == name.view())
            return &choice;
    return nullptr;
}

// Reads the kwargs of one choice; the first refusal is kept in *error.
class Reader {
  public:
    Reader(const CountdownInput &input, const Choice &choice, FieldError *error)
        : input_(input), choice_(choice), error_(error) {}

    bool refuse_unknown() const {
        for (size_t i = 0; i < input_.kwarg_count; i++) {
            std::string_view name = input_.kwargs[i].name.view();
            if (!name.empty() &&
                std::find(choice_.kwargs, choice_.kwargs + max_kwargs, name) != choice_.kwargs + max_kwargs)
                continue;
            FixedText message;
            message.add("unknown kwarg ").quote(name).add(" for the countdown ").quote(choice_.name);
            return refuse(name, message);
        }
        return true;
    }

    // The kwarg's number, at least `low` and at most `high`. An absent one leaves *value alone.
    bool number(std::string_view name, bool required, double low, double high, double *value,
                bool *whole = nullptr) const {
        const Kwarg *kwarg = find(name);
        if (kwarg == nullptr)
            return !required || refuse_missing(name);
        if (kwarg->kind != Kwarg::Kind::number) {
            FixedText message;
            message.add("kwarg ").quote(name).add(" is not a number");
            return refuse(name, message, low, high);
        }
        if (!in_range(name, kwarg->number, low, high))
            return false;
        *value = kwarg->number;
        if (whole != nullptr)
            *whole = kwarg->whole;
        return true;
    }

    bool numbers(std::string_view name, const double **values, size_t *count) const {
        const Kwarg *kwarg = find(name);
        if (kwarg == nullptr)
            return refuse_missing(name);
        if (kwarg->kind != Kwarg::Kind::numbers || kwarg->count == 0) {
            FixedText message;
            message.add("kwarg ").quote(name).add(
                kwarg->kind == Kwarg::Kind::numbers ? " is an empty array" : " is not an array of numbers");
            return refuse(name, message);
        }
        for (size_t i = 0; i < kwarg->count; i++)
            if (!in_range(name, kwarg->numbers[i], 0, infinity))
                return false;
        *values = kwarg->numbers;
        *count = kwarg->count;
        return true;
    }

    // Hint: the kwargs that the choice takes.
    bool refuse(std::string_view name, const FixedText &message) const {
        FixedText hint;
        hint.add("The countdown ").quote(choice_.name).add(" takes ");
        for (size_t i = 0; i < max_kwargs && !choice_.kwargs[i].empty(); i++)
            hint.add(i == 0 ? "" : ", ").add(choice_.kwargs[i]);
        hint.add(choice_.kind == CountdownKind::schedule
                     ? "; seconds is an array of numbers, 0 or more, not empty."
                     : "; each is a JSON number.");
        return set(name, message, hint.view());
    }

  private:
    const Kwarg *find(std::string_view name) const {
        for (size_t i = 0; i < input_.kwarg_count; i++)
            if (input_.kwargs[i].name.view() == name)
                return &input_.kwargs[i];
        return nullptr;
    }

    bool in_range(std::string_view name, double value, double low, double high) const {
        // Written so that NaN is refused; infinity stands for a JSON number that no double can hold.
        if (value >= low && value <= high && value < infinity)
            return true;
        FixedText message;
        message.add("kwarg ").quote(name).add(" is out of range");
        if (std::isfinite(value))
            message.add(": ").number(value);
        return refuse(name, message, low, high);
    }

    bool refuse_missing(std::string_view name) const {
        FixedText message;
        message.add("kwarg ").quote(name).add(" is missing for the countdown ").quote(choice_.name);
        return refuse(name, message);
    }

    bool refuse(std::string_view name, const FixedText &message, double low, double high) const {
        FixedText hint;
        hint.quote(name).add(" is a JSON number, ").number(low);
        if (high < infinity)
            hint.add(" to ").number(high).add(".");
        else
            hint.add(" or more.");
        return set(name, message, hint.view());
    }

    bool set(std::string_view name, const FixedText &message, std::string_view hint) const {
        FixedText field;
        field.add("retry_countdown_config.kwargs.").add(name);
        set_field_error(error_, field.view(), message.view(), hint);
        return false;
    }

    const CountdownInput &input_;
    const Choice &choice_;
    FieldError *error_;
};

bool read_random(const Reader &reader, Countdown *made) {
    bool whole_min = false;
    bool whole_max = false;
    if (!reader.number("min_value", true, 0, infinity, &made->min_value, &whole_min) ||
        !reader.number("max_value", true, 0, infinity, &made->max_value, &whole_max))
        return false;
    if (!(made->min_value < made->max_value)) {
        FixedText message;
        message.add("kwarg \"min_value\" (").number(made->min_value);
        message.add(") is not less than \"max_value\" (").number(made->max_value).add(")");
        return reader.refuse("min_value", message);
    }
    made->whole = whole_min && whole_max;
    return true;
}

bool read_kind(const Reader &reader, Countdown *made) {
    switch (made->kind) {
    case CountdownKind::fixed:
        return reader.number("seconds", true, 0, infinity, &made->seconds);
    case CountdownKind::linear:
        made->limit = infinity;
        return reader.number("base", true, 0, infinity, &made->base) &&
               reader.number("limit", false, 0, infinity, &made->limit);
    case CountdownKind::exponential:
        made->factor = 1;
        made->limit = infinity;
        return reader.number("base", true, 0, infinity, &made->base) &&
               reader.number("factor", false, 1, infinity, &made->factor) &&
               reader.number("limit", false, 0, infinity, &made->limit);
    case CountdownKind::random:
        return read_random(reader, made);
    case CountdownKind::schedule:
        return reader.numbers("seconds", &made->schedule, &made->schedule_count);
    }
    return false;
}

double draw(const Random &random) {
    return std::clamp(random.uniform(random.context), 0.0, 1.0);
}

// Uniform with both ends included, which a number in [0, 1) does not give by itself.
double draw_between(const Countdown &countdown, const Random &random) {
    double span = countdown.max_value - countdown.min_value;
    if (countdown.whole) // span + 1 whole values; the last bits of very large ones do not matter
        return std::min(countdown.min_value + std::floor(draw(random) * (span + 1)), countdown.max_value);
    constexpr double steps =
        281474976710656.0; // 2^48: fewer bits than a good generator has, so each end is reached
    double share = std::min(std::floor(draw(random) * steps) / (steps - 1), 1.0);
    return std::min(countdown.min_value + span * share, countdown.max_value);
}

double plain_value(const Countdown &countdown, int attempts, const Random &random) {
    switch (countdown.kind) {
    case CountdownKind::fixed:
        return countdown.seconds;
    case CountdownKind::linear:
        return std::min(countdown.base * attempts, countdown.limit);
    case CountdownKind::exponential:
        // No NaN: the factor is finite and at least 1, so neither 0 * infinity nor infinity * 0 occurs.
        return std::min(countdown.factor * std::pow(countdown.base, attempts), countdown.limit);
    case CountdownKind::random:
        return draw_between(countdown, random);
    case CountdownKind::schedule:
        return countdown
            .schedule[std::min<size_t>(static_cast<size_t>(attempts), countdown.schedule_count) - 1];
    }
    return 0;
}

} // namespace

bool is_builtin_choice(Slice choice) noexcept {
    return find_choice(choice) != nullptr;
}

const char *builtin_choices() noexcept {
    return choice_names;
}

bool make_countdown(const CountdownInput &input, Countdown *countdown, FieldError *error) noexcept {
    const Choice *choice = find_choice(input.choice);
    if (choice == nullptr) {
        FixedText message;
        if (input.choice.empty())
            message.add("choice is missing or empty");
        else
            message.add("unknown countdown ").quote(input.choice.view());
        FixedText hint;
        hint.add("Built-in countdowns are ")
            .add(choice_names)
            .add("; whisperer.register_countdown() adds others, which whisperer.countdowns lists.");
        set_field_error(error, "retry_countdown_config.choice", message.view(), hint.view());
        return false;
    }
    Countdown made{};
    made.kind = choice->kind;
    Reader reader(input, *choice, error);
    if (!reader.refuse_unknown() || !read_kind(reader, &made) ||
        !reader.number("jitter", false, 0, 1, &made.jitter))
        return false;
    *countdown = made;
    return true;
}

const Countdown &default_countdown() noexcept {
    static constexpr double seconds[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400};
    static constexpr Countdown standard = {
        CountdownKind::schedule, false, 0, 0, 0, 0, 0, 0, 0.1, seconds, sizeof(seconds) / sizeof(seconds[0])};
    return standard;
}

double countdown_seconds(const Countdown &countdown, int attempts, const Random &random) noexcept {
    double value = plain_value(countdown, std::max(attempts, 1), random);
    if (countdown.jitter > 0) {
        // From a finite value, since jitter 1 can multiply by 0.
        value = std::min(value, DBL_MAX) * (1 + countdown.jitter * (2 * draw(random) - 1));
    }
    return std::clamp(value, 0.0, max_countdown_seconds);
}

} // namespace whisperer::core
