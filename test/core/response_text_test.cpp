#include "core/response_text.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace whisperer::core;

namespace {

using namespace std::string_literals;

std::string escaped(const std::string &bytes) {
    std::string out(escaped_size(slice(bytes)), '?');
    write_escaped(slice(bytes), out.data());
    return out;
}

TEST(ResponseText, IsStoredWhereItIsText) {
    for (const std::string &text : {""s, "plain"s, "\r\n\t\x01\x7F"s, "\xC3\xA4 \xF0\x9F\x99\x82"s})
        EXPECT_TRUE(is_storable(slice(text))) << text;
    for (const std::string &bytes : {"\0"s, "a\0b"s, "\xFF"s, "\xC3"s, "\xC0\x80"s, "\xED\xA0\x80"s})
        EXPECT_FALSE(is_storable(slice(bytes))) << escaped(bytes);
}

TEST(ResponseText, IsEscapedWhereItIsNot) {
    EXPECT_EQ(escaped(""), "");
    EXPECT_EQ(escaped("plain\r\n\t~"), "plain\r\n\t~");
    EXPECT_EQ(escaped("\0\x01\x1F\x7F\x80\xFF"s), "\\x00\\x01\\x1f\x7F\\x80\\xff");
    EXPECT_EQ(escaped("\\x00"), "\\\\x00"); // and so can be read back
    EXPECT_EQ(escaped("\xC3\xA4"), "\\xc3\\xa4");
}

} // namespace
