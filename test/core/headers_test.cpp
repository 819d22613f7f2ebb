#include "core/headers.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

using namespace whisperer::core;

namespace {

bool check(const std::vector<std::pair<std::string, std::string>> &pairs, FieldError *error) {
    std::vector<Header> headers;
    for (const auto &pair : pairs)
        headers.push_back({slice(pair.first), slice(pair.second)});
    return check_headers(headers.data(), headers.size(), error);
}

} // namespace

TEST(Headers, Tokens) {
    // RFC 9110, section 5.6.2, byte by byte
    const std::string allowed =
        "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (int byte = 0; byte < 256; byte++) {
        std::string name(1, static_cast<char>(byte));
        EXPECT_EQ(is_token(slice(name)), allowed.find(name) != std::string::npos) << byte;
    }
    EXPECT_FALSE(is_token(slice("")));
    EXPECT_FALSE(is_token(slice("a b")));
}

TEST(Headers, ReservedNames) {
    for (const char *name : {"X-Whisperer-Event",
                             "X-Whisperer-Signature",
                             "webhook-id",
                             "webhook-timestamp",
                             "webhook-signature",
                             "Host",
                             "Content-Length",
                             "Transfer-Encoding",
                             "Connection",
                             "Keep-Alive",
                             "Upgrade",
                             "TE",
                             "Trailer",
                             "Expect",
                             "Accept-Encoding",
                             "Cookie",
                             "HTTP2-Settings",
                             "Proxy-Authorization",
                             "Proxy-Connection",
                             "proxy-",
                             "hOST",
                             "WEBHOOK-ID",
                             "te",
                             "PROXY-x"}) {
        FieldError error{};
        EXPECT_TRUE(is_reserved_header(slice(name))) << name;
        EXPECT_FALSE(check_header(slice(name), slice("x"), &error)) << name;
        EXPECT_STREQ(error.field, "additional_headers");
        EXPECT_NE(std::string(error.message).find(name), std::string::npos);
        EXPECT_STRNE(error.hint, "");
    }
    for (const char *name : {"Content-Type", "User-Agent", "Authorization", "X-Api-Key", "Proxy", "Hosts",
                             "X-Host", "X-Whisperer", "Webhook", "Accept", "Content-Encoding", "T", "TEE"}) {
        FieldError error{};
        EXPECT_TRUE(check_header(slice(name), slice("x"), &error)) << name << ": " << error.message;
    }
}

TEST(Headers, BadNames) {
    for (const std::string &name :
         {std::string(""), std::string(":authority"), std::string("a:b"), std::string("a b"),
          std::string("a\r\nb"), std::string("a\0b", 3), std::string("\u00fc"), std::string("Host "),
          std::string("\tHost"), std::string("a;")}) {
        FieldError error{};
        EXPECT_FALSE(check_header(slice(name), slice("x"), &error)) << testing::PrintToString(name);
        EXPECT_NE(std::string(error.message).find("token"), std::string::npos) << error.message;
        EXPECT_EQ(std::string(error.message).find('\n'), std::string::npos);
    }
}

TEST(Headers, Values) {
    for (const std::string &value : {std::string(""), std::string("a b"), std::string("\u00fc"),
                                     std::string("a;b=\"c\""), std::string(" x ")})
        EXPECT_TRUE(check_header(slice("X"), slice(value), nullptr)) << testing::PrintToString(value);
    for (int byte = 0; byte < 0x20; byte++)
        EXPECT_FALSE(check_header(slice("X"), slice(std::string("a") + static_cast<char>(byte)), nullptr))
            << byte;
    FieldError error{};
    for (const std::string &value :
         {std::string("secret\nX-Other: y"), std::string("secret\x7f"), std::string("secret\u0085")}) {
        EXPECT_FALSE(check_header(slice("X-Key"), slice(value), &error));
        EXPECT_NE(std::string(error.message).find("\"X-Key\""), std::string::npos);
        EXPECT_EQ(std::string(error.message).find("secret"), std::string::npos) << "shows the value";
    }
}

TEST(Headers, Sets) {
    FieldError error{};
    EXPECT_TRUE(check({}, &error));
    EXPECT_TRUE(check({{"A", "1"}, {"B", "1"}}, &error));
    EXPECT_FALSE(check({{"X-A", "1"}, {"B", "2"}, {"x-a", "3"}}, &error));
    EXPECT_NE(std::string(error.message).find("\"x-a\""), std::string::npos);
    EXPECT_FALSE(check({{"A", "1"}, {"Host", "2"}}, &error));
    EXPECT_NE(std::string(error.message).find("\"Host\""), std::string::npos);
    // 8192 bytes of names and values together
    EXPECT_TRUE(check({{"A", std::string(4095, 'x')}, {"B", std::string(4095, 'x')}}, &error));
    EXPECT_FALSE(check({{"A", std::string(4095, 'x')}, {"B", std::string(4096, 'x')}}, &error));
    EXPECT_NE(std::string(error.message).find("8193"), std::string::npos) << error.message;
}
