#include "core/envelope.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace whisperer::core;

namespace {

Uuid uuid(const char *text) {
    Uuid parsed{};
    EXPECT_TRUE(parse_uuid(slice(text), &parsed));
    return parsed;
}

std::string body(const std::string &type, const char *id, const std::string &payload) {
    std::string out(envelope_size(slice(type), payload.size()) + 4, '#');
    size_t written = write_envelope(slice(type), uuid(id), slice(payload), out.data());
    EXPECT_EQ(written, envelope_size(slice(type), payload.size()));
    EXPECT_EQ(out.substr(written), "####") << "wrote too much";
    return out.substr(0, written);
}

} // namespace

TEST(Envelope, TheManualsExample) {
    EXPECT_EQ(
        body("package-created", "da81e851-3982-4c61-87dd-1e58a7d3f971", R"({"a": 1})"),
        R"({"event": {"type": "package-created", "uuid": "da81e85139824c6187dd1e58a7d3f971"}, "payload": {"a": 1}})");
}

TEST(Envelope, EscapesTheTypeAsPostgresDoes) {
    struct {
        std::string type, escaped;
    } cases[] = {
        {"", ""},
        {"a\"b", R"(a\"b)"},
        {"a\\b", R"(a\\b)"},
        {"a/b", "a/b"},
        {"\b\f\n\r\t", R"(\b\f\n\r\t)"},
        {std::string("\x00\x01\x0b\x1f", 4), R"(\u0000\u0001\u000b\u001f)"},
        {"\x7f\u0080\u00e9\u2028\U0001F600", "\x7f\u0080\u00e9\u2028\U0001F600"},
        {"<&>'", "<&>'"},
    };
    for (const auto &c : cases)
        EXPECT_EQ(body(c.type, "00000000000000000000000000000000", "{}"),
                  R"({"event": {"type": ")" + c.escaped +
                      R"(", "uuid": "00000000000000000000000000000000"}, "payload": {}})");
}

TEST(Envelope, CopiesThePayloadAsItIs) {
    std::string payload = "{\"x\": \"\\u0001 \u00e9\"}" + std::string(100000, ' ');
    std::string whole = body("t", "ffffffffffffffffffffffffffffffff", payload);
    EXPECT_EQ(whole.substr(whole.size() - payload.size() - 1), payload + "}");
    EXPECT_EQ(body("t", "ffffffffffffffffffffffffffffffff", "").back(), '}');
}
