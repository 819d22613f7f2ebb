#include "core/retry_after.hpp"

#include <gtest/gtest.h>

using namespace whisperer::core;

namespace {
constexpr int64_t example = 784111777; // Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110
constexpr int day = 86400;
} // namespace

TEST(RetryAfter, Seconds) {
    struct {
        const char *text;
        int expected;
    } cases[] = {
        {"1", 1},
        {"120", 120},
        {" 120\t", 120},
        {"0120", 120},
        {"86400", day},
        {"86401", day},
        {"0", -1},
        {"-1", -1},
        {"+5", -1},
        {"1.5", -1},
        {"1e3", -1},
        {"12 0", -1},
        {"", -1},
        {"   ", -1},
        {"soon", -1},
        {"5s", -1},
        {"0x10", -1},
        {"\n5", -1},
        {"99999999999999999999999999999999999999", day},
        {"00000000000000000000000000000000000000", -1},
    };
    for (const auto &c : cases)
        EXPECT_EQ(parse_retry_after(slice(c.text), example), c.expected) << c.text;
    EXPECT_EQ(parse_retry_after({nullptr, 0}, example), -1);
}

TEST(RetryAfter, TheThreeDateForms) {
    for (const char *text : {"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
                             "Sun Nov  6 08:49:37 1994", "  Sun, 06 Nov 1994 08:49:37 GMT "}) {
        EXPECT_EQ(parse_retry_after(slice(text), example - 10), 10) << text;
        EXPECT_EQ(parse_retry_after(slice(text), example - day - 1), day) << text;
        EXPECT_EQ(parse_retry_after(slice(text), example), -1) << text;
        EXPECT_EQ(parse_retry_after(slice(text), example + 1), -1) << text;
    }
}

TEST(RetryAfter, Calendar) {
    struct {
        const char *text;
        int64_t unix_time;
    } cases[] = {
        {"Thu, 01 Jan 1970 00:01:00 GMT", 60},         {"Tue, 29 Feb 2000 00:00:00 GMT", 951782400},
        {"Wed, 01 Mar 2000 00:00:00 GMT", 951868800},  {"Thu, 29 Feb 2024 23:59:59 GMT", 1709251199},
        {"Sun, 31 Dec 2023 23:59:60 GMT", 1704067200}, // leap second: the next day's first
        {"Mon, 01 Mar 2100 00:00:00 GMT", 4107542400}, {"Tue Mar 15 10:00:00 2039", 2183796000},
        {"Tue Mar  5 10:00:00 2039", 2182932000},
    };
    for (const auto &c : cases)
        EXPECT_EQ(parse_retry_after(slice(c.text), c.unix_time - 7), 7) << c.text;
}

TEST(RetryAfter, TwoDigitYearsAreAtMostFiftyAhead) {
    constexpr int64_t in_2026 = 1790000000; // 2026-09-21
    constexpr int64_t in_2060 = 2855000000; // 2060-06-21
    EXPECT_EQ(parse_retry_after(slice("Tuesday, 22-Sep-26 00:00:00 GMT"), in_2026), 1790035200 - in_2026);
    EXPECT_EQ(parse_retry_after(slice("Tuesday, 22-Sep-76 00:00:00 GMT"), in_2026), day); // 2076
    EXPECT_EQ(parse_retry_after(slice("Tuesday, 22-Sep-77 00:00:00 GMT"), in_2026), -1);  // 1977
    EXPECT_EQ(parse_retry_after(slice("Tuesday, 22-Sep-00 00:00:00 GMT"), in_2026), -1);  // 2000
    EXPECT_EQ(parse_retry_after(slice("Tuesday, 22-Sep-00 00:00:00 GMT"), in_2060), day); // 2100
    EXPECT_EQ(parse_retry_after(slice("Tuesday, 22-Sep-30 00:00:00 GMT"), in_2060), -1);  // 2030
}

TEST(RetryAfter, NoDates) {
    for (const char *text : {
             "Sun, 06 Nov 1994 08:49:37",       "Sun, 06 Nov 1994 08:49:37 UTC",
             "Sun, 06 Nov 1994 08:49:37 GMT x", "sun, 06 nov 1994 08:49:37 gmt",
             "Xyz, 06 Nov 1994 08:49:37 GMT",   "Sun, 6 Nov 1994 08:49:37 GMT",
             "Sun, 06 Foo 1994 08:49:37 GMT",   "Sun, 00 Nov 1994 08:49:37 GMT",
             "Sun, 31 Nov 1994 08:49:37 GMT",   "Sun, 29 Feb 2023 08:49:37 GMT",
             "Sun, 29 Feb 2100 08:49:37 GMT",   "Sun, 06 Nov 1994 24:00:00 GMT",
             "Sun, 06 Nov 1994 08:60:37 GMT",   "Sun, 06 Nov 1994 08:49:61 GMT",
             "Sun, 06 Nov 94 08:49:37 GMT",     "Sunday, 06-Nov-1994 08:49:37 GMT",
             "Sun Nov 6 08:49:37 1994",         "Sun Nov   6 08:49:37 1994",
             "Sun, 06 Nov 1994 08:49",          "1994-11-06T08:49:37Z",
         })
        EXPECT_EQ(parse_retry_after(slice(text), 0), -1) << text;
    EXPECT_EQ(parse_retry_after(slice("Sun, 06 Nov 1994 08:49:37 GMT"), -5), -1);
    EXPECT_EQ(parse_retry_after(slice("Sun, 06 Nov 1994 08:49:37 GMT"), INT64_MAX), -1);
    EXPECT_EQ(parse_retry_after(slice("Sunday, 06-Nov-94 08:49:37 GMT"), INT64_MIN), -1);
}
