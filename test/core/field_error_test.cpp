#include "core/field_error.hpp"
#include "core/utf8.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace whisperer::core;

TEST(FieldError, KeepsShortTexts) {
    FieldError error;
    set_field_error(&error, "a", "b", "c");
    EXPECT_STREQ(error.field, "a");
    EXPECT_STREQ(error.message, "b");
    EXPECT_STREQ(error.hint, "c");
    set_field_error(&error, "a", "b");
    EXPECT_STREQ(error.hint, "");
    set_field_error(nullptr, "a", "b");
}

TEST(FieldError, CutsBetweenCharacters) {
    FieldError error;
    // 63 bytes fit: 62 letters and a two-byte character do not.
    set_field_error(&error, std::string(62, 'x') + "\u00e9", std::string(1000, 'm'),
                    std::string(253, 'h') + "\U0001F600");
    EXPECT_EQ(std::string(error.field), std::string(62, 'x'));
    EXPECT_EQ(std::string(error.message), std::string(255, 'm'));
    EXPECT_EQ(std::string(error.hint), std::string(253, 'h'));
}

TEST(FixedText, QuotesEscapesAndCuts) {
    EXPECT_EQ(FixedText().quote("a\nb\x7f").view(), "\"a\\x0ab\\x7f\"");
    EXPECT_EQ(FixedText().quote("\u0085").view(), "\"\\xc2\\x85\"");
    EXPECT_EQ(FixedText().quote("\u2028").view(), "\"\\xe2\\x80\\xa8\"");
    EXPECT_EQ(FixedText().quote("h\u00e9llo").view(), "\"h\u00e9llo\"");
    EXPECT_EQ(FixedText().quote("abcdef", 3).view(), "\"abc...\"");
    EXPECT_EQ(FixedText().quote("ab\u00e9f", 3).view(), "\"ab...\"");
    EXPECT_EQ(FixedText().quote("").view(), "\"\"");
    // What is not UTF-8 must not reach a client or a log as it is.
    EXPECT_EQ(FixedText().quote("a\xc3\xa9\xff").view(), "\"a\\xc3\\xa9\\xff\"");
    EXPECT_EQ(FixedText().number(0.1).add(" ").number(86400).add(" ").number(1e300).view(),
              "0.1 86400 1e+300");
}

TEST(FixedText, NeverOverflows) {
    FixedText text;
    for (int i = 0; i < 200; i++)
        text.quote("\u00e9\u00e9\n").number(i);
    EXPECT_LE(text.view().size(), 255u);
    EXPECT_TRUE(valid_utf8(slice(text.view())));
}
