#include "core/url.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace whisperer::core;

TEST(Url, Accepted) {
    struct {
        const char *url;
        const char *host;
        int port;
        bool https;
        bool literal;
        const char *origin;
    } cases[] = {
        {"http://example.com", "example.com", 80, false, false, "http://example.com"},
        {"https://example.com/", "example.com", 443, true, false, "https://example.com"},
        {"HTTPS://Example.com/hook?a=b&c=d#part", "Example.com", 443, true, false, "https://Example.com"},
        {"https://example.com:8443/x", "example.com", 8443, true, false, "https://example.com:8443"},
        {"https://example.com:443/x", "example.com", 443, true, false, "https://example.com"},
        {"http://example.com:443/x", "example.com", 443, false, false, "http://example.com:443"},
        {"http://example.com:/x", "example.com", 80, false, false, "http://example.com"},
        {"http://example.com:65535", "example.com", 65535, false, false, "http://example.com:65535"},
        {"http://example.com:00080", "example.com", 80, false, false, "http://example.com"},
        {"http://example.com.:1/", "example.com.", 1, false, false, "http://example.com.:1"},
        {"http://localhost/", "localhost", 80, false, false, "http://localhost"},
        {"http://127.0.0.1:9/", "127.0.0.1", 9, false, true, "http://127.0.0.1:9"},
        {"http://[::1]:9/", "::1", 9, false, true, "http://[::1]:9"},
        {"http://[2001:db8::1]", "2001:db8::1", 80, false, true, "http://[2001:db8::1]"},
        {"http://[fe80::1%25eth0]/", "fe80::1", 80, false, true, "http://[fe80::1]"},
        {"http://a?b", "a", 80, false, false, "http://a"},
        {"http://a#b", "a", 80, false, false, "http://a"},
        {"http://a/?q=http://user:pw@b/", "a", 80, false, false, "http://a"},
        {"http://a/user@b", "a", 80, false, false, "http://a"},
        {"http://a/%20%0d%0a", "a", 80, false, false, "http://a"},
        {"http://b\u00fccher.example/\u00fc", "b\u00fccher.example", 80, false, false,
         "http://b\u00fccher.example"},
        {"http://ex%61mple.com/", "example.com", 80, false, false, "http://example.com"},
        {"http://under_score.example/", "under_score.example", 80, false, false,
         "http://under_score.example"},
        {"http://_a-b--c.-d.example/", "_a-b--c.-d.example", 80, false, false, "http://_a-b--c.-d.example"},
        // Other spellings of v4 addresses become what will be dialled.
        {"http://2130706433/", "127.0.0.1", 80, false, true, "http://127.0.0.1"},
        {"http://0x7f.1/", "127.0.0.1", 80, false, true, "http://127.0.0.1"},
        {"http://0177.0.0.01/", "127.0.0.1", 80, false, true, "http://127.0.0.1"},
        {"http://127.0.0.%31/", "127.0.0.1", 80, false, true, "http://127.0.0.1"},
        {"http://127.1/", "127.0.0.1", 80, false, true, "http://127.0.0.1"},
    };
    for (const auto &c : cases) {
        FieldError error{};
        EXPECT_TRUE(check_url(slice(c.url), &error)) << c.url << ": " << error.message;
        UrlParts parts{};
        ASSERT_TRUE(split_url(slice(c.url), &parts)) << c.url;
        EXPECT_STREQ(parts.host, c.host) << c.url;
        EXPECT_EQ(parts.port, c.port) << c.url;
        EXPECT_EQ(parts.https, c.https) << c.url;
        EXPECT_EQ(parts.literal, c.literal) << c.url;
        EXPECT_STREQ(parts.origin, c.origin) << c.url;
    }
}

TEST(Url, Refused) {
    struct {
        std::string url;
        const char *message; // a part of it
    } cases[] = {
        {"", "empty"},
        {"example.com", "not an http or https"},
        {"//example.com", "not an http or https"},
        {"ftp://example.com", "not an http or https"},
        {"file:///etc/passwd", "not an http or https"},
        {"gopher://example.com", "not an http or https"},
        {"javascript:alert(1)", "not an http or https"},
        {"httpx://example.com", "not an http or https"},
        {"http:example.com", "not an http or https"},
        {"http:/example.com", "not an http or https"},
        {"http:\\\\example.com", "not an http or https"},
        {" http://example.com", "space"},
        {"http://", "host"},
        {"https://", "host"},
        {"http:///example.com", "host"},
        {"http:////example.com", "host"},
        {"http://?x", "host"},
        {"http://#x", "host"},
        {"http://:80/", "host"},
        {"http://./", "host"},
        {"http://../", "host"},
        {"http://\\example.com/", "host"},
        {"http://exa\\mple.com/", ""},
        {"http://a,b/", "host"},
        {"http://a;b/", "host"},
        {"http://a<b/", "host"},
        {"http://a`b/", "host"},
        {"http://a%00b/", ""},
        {"http://a%0d%0ab/", ""},
        {"http://a%2fb/", ""},
        {"http://a%40b/", ""},
        {"http://a%20b/", ""},
        {"http://a%7fb/", "host"},
        {"http://a%80b/", "host"},
        {"http://a%c2%85b/", "host"},
        {"http://%2e/", "host"},
        {"http://-a.example/", "begins with"},
        {"http://%2da.example/", "begins with"},
        {"http://+a.example/", "host"},
        {"http://%2ba.example/", "host"},
        {"http://*/", "host"},
        {"http://%2a.example/", "host"},
        {"http://[::1/", ""},
        {"http://[::g]/", ""},
        {"http://::1/", ""},
        {"http://[127.0.0.1]/", ""},
        {"http://a:0/", "port"},
        {"http://a:00000/", "port"},
        {"http://a:65536/", "port"},
        {"http://a:99999999999999999999/", "port"},
        {"http://a:-1/", ""},
        {"http://a:+80/", ""},
        {"http://a:80x/", ""},
        {"http://a:80:80/", ""},
        {"http://user@a/", "user name"},
        {"http://user:pw@a/", "user name"},
        {"http://:@a/", "user name"},
        {"http://@a/", "user name"},
        {"http://a:80@b/", "user name"},
        {"http://a@b@c/", "user name"},
        {"http://a\nb/", "control"},
        {"http://a/\r\nX: y", "control"},
        {"http://a/\tb", "control"},
        {"http://a/\x7f", "control"},
        {"http://a/\u0085", "control"},
        {"http://a/\u2028", "control"},
        {"http://a/\xff", "control"},
        {std::string("http://a/\0b", 11), "control"},
        {"http://a/b c", "space"},
        {"http://a b/", "space"},
        {"http://a/ ", "space"},
        {"http://a/" + std::string(2040, 'x'), "2048"},
        {"http://" + std::string(254, 'x') + "/", "253"},
    };
    for (const auto &c : cases) {
        FieldError error{};
        EXPECT_FALSE(check_url(slice(c.url), &error)) << testing::PrintToString(c.url);
        EXPECT_STREQ(error.field, "target_url");
        EXPECT_NE(std::string(error.message).find(c.message), std::string::npos)
            << testing::PrintToString(c.url) << ": " << error.message;
        EXPECT_STRNE(error.hint, "") << c.url;
        UrlParts parts{};
        EXPECT_FALSE(split_url(slice(c.url), &parts));
    }
}

// Refused by older libcurl, which would otherwise look for a name "1"; a newer one sees the number.
TEST(Url, EncodedNumbersAreNeverNames) {
    const struct {
        const char *url, *address;
    } cases[] = {{"http://%31/", "0.0.0.1"}, {"http://%30x7f.1/", "127.0.0.1"}};
    for (const auto &c : cases) {
        UrlParts parts{};
        if (split_url(slice(c.url), &parts)) {
            EXPECT_STREQ(parts.host, c.address);
            EXPECT_TRUE(parts.literal);
        } else {
            FieldError error{};
            EXPECT_FALSE(check_url(slice(c.url), &error));
            EXPECT_NE(std::string(error.message).find("host"), std::string::npos) << error.message;
        }
    }
}

TEST(Url, Limits) {
    std::string url = "http://a/";
    url.append(max_url_size - url.size(), 'x');
    EXPECT_TRUE(check_url(slice(url), nullptr));
    url.push_back('x');
    EXPECT_FALSE(check_url(slice(url), nullptr));

    UrlParts parts;
    std::string host(253, 'h');
    ASSERT_TRUE(split_url(slice("https://" + host + ".:65535"), &parts));
    EXPECT_EQ(parts.host, host + ".");
    EXPECT_EQ(parts.origin, "https://" + host + ".:65535");
}

TEST(Url, ErrorsNameTheFieldAndHideWhatMayBeAPassword) {
    FieldError error{};
    EXPECT_FALSE(check_url(slice("https://joe:hunter2@example.com/"), &error, "config.auth.url"));
    EXPECT_STREQ(error.field, "config.auth.url");
    EXPECT_EQ(std::string(error.message).find("hunter2"), std::string::npos);
    EXPECT_EQ(std::string(error.hint).find("\"basic\""), std::string::npos) << error.hint;
    EXPECT_NE(std::string(error.hint).find("\"username\" and \"password\""), std::string::npos) << error.hint;
    EXPECT_FALSE(check_url(slice("https://joe:hunter2@example.com/"), &error));
    EXPECT_NE(std::string(error.hint).find("\"basic\""), std::string::npos) << error.hint;

    EXPECT_FALSE(check_url(slice("ftp://joe:hunter2@example.com/"), &error));
    EXPECT_EQ(std::string(error.message).find("hunter2"), std::string::npos);

    EXPECT_FALSE(check_url(slice("ftp://example.com/"), &error));
    EXPECT_STREQ(error.message, "\"ftp://example.com/\" is not an http or https URL");
}

TEST(Url, PercentEncoded) {
    struct {
        const char *text;
        const char *encoded;
    } cases[] = {
        {"", ""},
        {"/x?q=a+b&c=%20#d", "/x?q=a+b&c=%20#d"},
        {"/\u00fc?q=\u00fc&r=%c3%BC#\u00fc", "/%C3%BC?q=%C3%BC&r=%c3%BC#%C3%BC"},
        {"?\u20ac\U0001f600~", "?%E2%82%AC%F0%9F%98%80~"},
        {"/\"<>[]{}|\\^`'", "/\"<>[]{}|\\^`'"},
        {"\x7f\x80\xff", "\x7f%80%FF"},
    };
    for (const auto &c : cases)
        EXPECT_EQ(percent_encoded(c.text), c.encoded);
}
