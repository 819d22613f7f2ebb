#include "core/countdown.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace whisperer::core;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double day = 86400;

Kwarg number(std::string_view name, double value) {
    return {slice(name), Kwarg::Kind::number, value, nullptr, 0, value == std::floor(value)};
}
Kwarg other(std::string_view name) {
    return {slice(name), Kwarg::Kind::other, 0, nullptr, 0, false};
}
Kwarg array(std::string_view name, const std::vector<double> &values) {
    return {slice(name), Kwarg::Kind::numbers, 0, values.data(), values.size(), false};
}

bool make(std::string_view choice, const std::vector<Kwarg> &kwargs, Countdown *made, FieldError *error) {
    return make_countdown({slice(choice), kwargs.data(), kwargs.size()}, made, error);
}

// Always the same number.
Random constant(double *value) {
    return {[](void *context) { return *static_cast<double *>(context); }, value};
}

double seconds(std::string_view choice, const std::vector<Kwarg> &kwargs, int attempts, double drawn = 0.5) {
    Countdown made;
    FieldError error;
    EXPECT_TRUE(make(choice, kwargs, &made, &error)) << error.message;
    return countdown_seconds(made, attempts, constant(&drawn));
}

} // namespace

TEST(Countdown, Values) {
    std::vector<double> schedule = {5, 0, 7.5};
    struct {
        const char *choice;
        std::vector<Kwarg> kwargs;
        int attempts;
        double expected;
    } cases[] = {
        {"fixed", {number("seconds", 12.5)}, 1, 12.5},
        {"fixed", {number("seconds", 12.5)}, 1000, 12.5},
        {"fixed", {number("seconds", 0)}, 1, 0},
        {"fixed", {number("seconds", 1e300)}, 1, 30 * day},
        {"linear", {number("base", 10)}, 1, 10},
        {"linear", {number("base", 10)}, 7, 70},
        {"linear", {number("base", 10), number("limit", 45)}, 7, 45},
        {"linear", {number("base", 10), number("limit", 0)}, 7, 0},
        {"linear", {number("base", 0)}, 7, 0},
        {"linear", {number("base", 1e308)}, 1000, 30 * day},
        {"exponential", {number("base", 2)}, 1, 2},
        {"exponential", {number("base", 2)}, 5, 32},
        {"exponential", {number("base", 2), number("factor", 3)}, 5, 96},
        {"exponential", {number("base", 2), number("factor", 3), number("limit", 50)}, 5, 50},
        {"exponential", {number("base", 0)}, 1, 0},
        {"exponential", {number("base", 0), number("factor", 1e308)}, 1000, 0},
        {"exponential", {number("base", 0.5)}, 2, 0.25},
        {"exponential", {number("base", 0.5), number("factor", 1e308)}, 1000000, 0},
        {"exponential", {number("base", 1e300)}, 1000, 30 * day},
        {"exponential", {number("base", 1e300), number("limit", 60)}, 1000, 60},
        {"exponential",
         {number("base", 10), number("factor", 1e300)},
         std::numeric_limits<int>::max(),
         30 * day},
        {"schedule", {array("seconds", schedule)}, 1, 5},
        {"schedule", {array("seconds", schedule)}, 2, 0},
        {"schedule", {array("seconds", schedule)}, 3, 7.5},
        {"schedule", {array("seconds", schedule)}, 4, 7.5},
        {"schedule", {array("seconds", schedule)}, std::numeric_limits<int>::max(), 7.5},
        {"schedule", {array("seconds", schedule)}, 0, 5},
        {"schedule", {array("seconds", schedule)}, -3, 5},
    };
    for (const auto &c : cases)
        EXPECT_DOUBLE_EQ(seconds(c.choice, c.kwargs, c.attempts), c.expected)
            << c.choice << " after " << c.attempts;
}

TEST(Countdown, JitterComesAfterTheLimitAndBeforeTheClamp) {
    auto jitter = number("jitter", 0.5);
    EXPECT_DOUBLE_EQ(seconds("fixed", {number("seconds", 100), jitter}, 1, 0), 50);
    EXPECT_DOUBLE_EQ(seconds("fixed", {number("seconds", 100), jitter}, 1, 0.5), 100);
    EXPECT_DOUBLE_EQ(seconds("fixed", {number("seconds", 100), jitter}, 1, 0.75), 125);
    EXPECT_DOUBLE_EQ(seconds("linear", {number("base", 100), number("limit", 10), jitter}, 1, 0.75), 12.5);
    EXPECT_DOUBLE_EQ(seconds("fixed", {number("seconds", 30 * day), jitter}, 1, 0.75), 30 * day);
    EXPECT_DOUBLE_EQ(seconds("fixed", {number("seconds", 100), number("jitter", 1)}, 1, 0), 0);
}

TEST(Countdown, NeverNaNWhereInfinityMeetsZero) {
    // infinity * (1 + 1 * -1)
    EXPECT_EQ(seconds("exponential", {number("base", 1e300), number("jitter", 1)}, 1000, 0), 0);
    EXPECT_EQ(seconds("exponential", {number("base", 1e300), number("jitter", 1)}, 1000, 0.999), 30 * day);
}

TEST(Countdown, RandomIncludesBothEnds) {
    std::vector<Kwarg> whole = {number("min_value", 2), number("max_value", 5)};
    std::vector<Kwarg> real = {number("min_value", 2), number("max_value", 5.5)};
    double last = 1 - std::numeric_limits<double>::epsilon() / 2; // the largest below 1
    EXPECT_EQ(seconds("random", whole, 1, 0), 2);
    EXPECT_EQ(seconds("random", whole, 1, last), 5);
    EXPECT_EQ(seconds("random", real, 1, 0), 2);
    EXPECT_EQ(seconds("random", real, 1, last), 5.5);
    // A generator of 52 bits reaches the end as well.
    EXPECT_EQ(seconds("random", real, 1, 1 - std::ldexp(1, -52)), 5.5);
    EXPECT_EQ(seconds("random", {number("min_value", 0), number("max_value", 1e308)}, 1, last), 30 * day);
}

TEST(Countdown, RandomIsUniform) {
    Countdown made;
    FieldError error;
    std::mt19937_64 generator(1);
    Random random = {[](void *context) {
                         auto &bits = *static_cast<std::mt19937_64 *>(context);
                         return std::ldexp(static_cast<double>(bits() >> 11), -53);
                     },
                     &generator};
    ASSERT_TRUE(make("random", {number("min_value", 2), number("max_value", 5)}, &made, &error));
    int counts[6] = {};
    for (int i = 0; i < 4000; i++) {
        double value = countdown_seconds(made, 1, random);
        ASSERT_EQ(value, std::floor(value));
        ASSERT_GE(value, 2);
        ASSERT_LE(value, 5);
        counts[static_cast<int>(value)]++;
    }
    for (int value = 2; value <= 5; value++)
        EXPECT_NEAR(counts[value], 1000, 150) << value;

    ASSERT_TRUE(make("random", {number("min_value", 2), number("max_value", 5.5)}, &made, &error));
    EXPECT_FALSE(made.whole);
    double sum = 0;
    for (int i = 0; i < 4000; i++)
        sum += countdown_seconds(made, 1, random);
    EXPECT_NEAR(sum / 4000, 3.75, 0.1);
}

TEST(Countdown, WholeIsWhatTheJsonSays) {
    // 9007199254740993.5 is no whole number though its double is.
    Kwarg low = number("min_value", 1);
    Kwarg high = number("max_value", 9007199254740994.0);
    high.whole = false;
    Countdown made;
    FieldError error;
    ASSERT_TRUE(make("random", {low, high}, &made, &error));
    EXPECT_FALSE(made.whole);
}

TEST(Countdown, Refusals) {
    std::vector<double> none;
    std::vector<double> negative = {1, -1};
    std::vector<double> endless = {infinity};
    struct {
        const char *choice;
        std::vector<Kwarg> kwargs;
        const char *field;   // behind "retry_countdown_config."
        const char *message; // a part of it
    } cases[] = {
        {"", {}, "choice", "missing"},
        {"Fixed", {number("seconds", 1)}, "choice", "\"Fixed\""},
        {"fibonacci", {}, "choice", "\"fibonacci\""},
        {"fixed", {}, "kwargs.seconds", "missing"},
        {"fixed", {number("seconds", 1), number("second", 1)}, "kwargs.second", "unknown kwarg \"second\""},
        {"fixed", {number("seconds", 1), number("", 1)}, "kwargs.", "unknown kwarg \"\""},
        {"fixed", {number("seconds", 1), number("base", 1)}, "kwargs.base", "unknown"},
        {"fixed", {number("seconds", -0.5)}, "kwargs.seconds", "-0.5"},
        {"fixed", {number("seconds", infinity)}, "kwargs.seconds", "out of range"},
        {"fixed", {number("seconds", std::nan(""))}, "kwargs.seconds", "out of range"},
        {"fixed", {other("seconds")}, "kwargs.seconds", "not a number"},
        {"fixed", {array("seconds", negative)}, "kwargs.seconds", "not a number"},
        {"fixed", {number("seconds", 1), number("jitter", 1.01)}, "kwargs.jitter", "1.01"},
        {"fixed", {number("seconds", 1), number("jitter", -0.1)}, "kwargs.jitter", "-0.1"},
        {"fixed", {number("seconds", 1), other("jitter")}, "kwargs.jitter", "not a number"},
        {"linear", {number("limit", 1)}, "kwargs.base", "missing"},
        {"linear", {number("base", -1)}, "kwargs.base", "-1"},
        {"linear", {number("base", 1), number("limit", -1)}, "kwargs.limit", "-1"},
        {"linear", {number("base", 1), number("factor", 1)}, "kwargs.factor", "unknown"},
        {"exponential", {number("factor", 2)}, "kwargs.base", "missing"},
        {"exponential", {number("base", 2), number("factor", 0.9)}, "kwargs.factor", "0.9"},
        {"exponential", {number("base", 2), number("limit", infinity)}, "kwargs.limit", "out of range"},
        {"random", {number("min_value", 1)}, "kwargs.max_value", "missing"},
        {"random", {number("max_value", 1)}, "kwargs.min_value", "missing"},
        {"random", {number("min_value", 1), number("max_value", 1)}, "kwargs.min_value", "not less than"},
        {"random", {number("min_value", 2), number("max_value", 1)}, "kwargs.min_value", "not less than"},
        {"random", {number("min_value", -1), number("max_value", 1)}, "kwargs.min_value", "-1"},
        {"schedule", {}, "kwargs.seconds", "missing"},
        {"schedule", {number("seconds", 1)}, "kwargs.seconds", "not an array"},
        {"schedule", {other("seconds")}, "kwargs.seconds", "not an array"},
        {"schedule", {array("seconds", none)}, "kwargs.seconds", "empty"},
        {"schedule", {array("seconds", negative)}, "kwargs.seconds", "-1"},
        {"schedule", {array("seconds", endless)}, "kwargs.seconds", "out of range"},
    };
    for (const auto &c : cases) {
        Countdown made{};
        made.seconds = 42;
        FieldError error{};
        EXPECT_FALSE(make(c.choice, c.kwargs, &made, &error)) << c.choice << " " << c.message;
        EXPECT_EQ(std::string(error.field), std::string("retry_countdown_config.") + c.field);
        EXPECT_NE(std::string(error.message).find(c.message), std::string::npos) << error.message;
        EXPECT_STRNE(error.hint, "");
        EXPECT_EQ(made.seconds, 42) << "a refusal must leave the countdown alone";
        EXPECT_FALSE(make(c.choice, c.kwargs, &made, nullptr));
    }
}

TEST(Countdown, HintListsTheChoices) {
    Countdown made;
    FieldError error{};
    EXPECT_FALSE(make("x", {}, &made, &error));
    for (const char *name : {"fixed", "linear", "exponential", "random", "schedule"}) {
        EXPECT_NE(std::string(error.hint).find(name), std::string::npos);
        EXPECT_NE(std::string(builtin_choices()).find(name), std::string::npos);
        EXPECT_TRUE(is_builtin_choice(slice(name)));
    }
    EXPECT_FALSE(is_builtin_choice(slice("")));
    EXPECT_FALSE(is_builtin_choice(slice("fixed ")));
}

TEST(Countdown, DefaultIsTheScheduleOfStandardWebhooks) {
    const double expected[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, 86400};
    double middle = 0.5;
    double lowest = 0;
    for (int n = 1; n <= 10; n++) {
        EXPECT_DOUBLE_EQ(countdown_seconds(default_countdown(), n, constant(&middle)), expected[n - 1]);
        EXPECT_DOUBLE_EQ(countdown_seconds(default_countdown(), n, constant(&lowest)), expected[n - 1] * 0.9);
    }
}
