#include "core/verdict.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace whisperer::core;

namespace {
constexpr Failure whole = Failure::none;
constexpr double month = 30.0 * 86400;
constexpr double day = 86400;
} // namespace

TEST(Verdict, Table) {
    struct {
        Failure failure;
        int status, attempts, max_attempts;
        double countdown;
        int retry_after;
        Outcome outcome;
        double wait, pause;
    } cases[] = {
        // 2xx, and nothing else, is success
        {whole, 200, 1, 18, 5, -1, Outcome::delivered, 0, 0},
        {whole, 204, 18, 18, 5, -1, Outcome::delivered, 0, 0},
        {whole, 299, 19, 18, 5, 100, Outcome::delivered, 0, 0},
        {whole, 199, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 300, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 301, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 304, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 404, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 500, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 999, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        // the status of a response that broke off is not believed
        {Failure::cut_short, 200, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::response_timeout, 200, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::cut_short, 410, 1, 18, 5, -1, Outcome::retry, 5, 0},
        // no response
        {Failure::refused_by_policy, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::name_lookup, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::connect, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::tls, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::connect_timeout, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::malformed, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::proxy, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {Failure::internal, 0, 1, 18, 5, -1, Outcome::retry, 5, 0},
        // the last attempt
        {whole, 500, 17, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 500, 18, 18, 5, -1, Outcome::failed, 0, 0},
        {whole, 500, 19, 18, 5, -1, Outcome::failed, 0, 0},
        {whole, 500, 1, 1, 5, -1, Outcome::failed, 0, 0},
        {Failure::connect, 0, 18, 18, 5, -1, Outcome::failed, 0, 0},
        // 410
        {whole, 410, 1, 18, 5, -1, Outcome::gone, 0, 0},
        {whole, 410, 18, 18, 5, 60, Outcome::gone, 0, 0},
        // Retry-After: the larger of it and the countdown, on 429 and 503 only
        {whole, 429, 1, 18, 5, 60, Outcome::retry, 60, 60},
        {whole, 503, 1, 18, 5, 60, Outcome::retry, 60, 60},
        {whole, 503, 1, 18, 500, 60, Outcome::retry, 500, 60},
        {whole, 503, 1, 18, 5, -1, Outcome::retry, 5, 0},
        {whole, 503, 1, 18, 5, 0, Outcome::retry, 5, 0},
        {whole, 503, 1, 18, 5, 999999, Outcome::retry, day, day},
        {whole, 500, 1, 18, 5, 60, Outcome::retry, 5, 0},
        {whole, 301, 1, 18, 5, 60, Outcome::retry, 5, 0},
        {Failure::cut_short, 503, 1, 18, 5, 60, Outcome::retry, 60, 60},
        // the subscription is spared though this delivery is over
        {whole, 429, 18, 18, 5, 60, Outcome::failed, 0, 60},
        // countdowns of custom functions may be anything
        {whole, 500, 1, 18, 0, -1, Outcome::retry, 0, 0},
        {whole, 500, 1, 18, -7, -1, Outcome::retry, 0, 0},
        {whole, 500, 1, 18, 1e300, -1, Outcome::retry, month, 0},
        {whole, 500, 1, 18, std::numeric_limits<double>::infinity(), -1, Outcome::retry, month, 0},
        {whole, 500, 1, 18, std::nan(""), -1, Outcome::retry, 0, 0},
        {whole, 503, 1, 18, std::nan(""), 60, Outcome::retry, 60, 60},
    };
    for (const auto &c : cases) {
        Verdict verdict =
            judge_attempt({c.failure, c.status, c.attempts, c.max_attempts, c.countdown, c.retry_after});
        auto name = testing::Message() << "failure " << static_cast<int>(c.failure) << ", status " << c.status
                                       << ", attempt " << c.attempts << "/" << c.max_attempts
                                       << ", countdown " << c.countdown << ", Retry-After " << c.retry_after;
        EXPECT_EQ(verdict.outcome, c.outcome) << name;
        EXPECT_EQ(verdict.wait_seconds, c.wait) << name;
        EXPECT_EQ(verdict.pause_seconds, c.pause) << name;
    }
}
