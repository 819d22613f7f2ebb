#include "core/utf8.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace whisperer::core;

namespace {

// The definition itself: decode, then check the value against the length and the forbidden ranges.
bool model(const std::string &text) {
    for (size_t i = 0; i < text.size();) {
        auto first = static_cast<unsigned char>(text[i]);
        size_t size = first < 0x80         ? 1
                      : (first >> 5) == 6  ? 2
                      : (first >> 4) == 14 ? 3
                      : (first >> 3) == 30 ? 4
                                           : 0;
        if (size == 0 || i + size > text.size())
            return false;
        uint32_t value = size == 1 ? first : first & (0x7F >> size);
        for (size_t j = 1; j < size; j++) {
            auto next = static_cast<unsigned char>(text[i + j]);
            if ((next >> 6) != 2)
                return false;
            value = value << 6 | (next & 0x3F);
        }
        constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (value < least[size] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
            return false;
        i += size;
    }
    return true;
}

} // namespace

TEST(Utf8, Examples) {
    struct {
        std::string text;
        bool valid;
    } cases[] = {
        {"", true},
        {"plain ASCII, longer than eight bytes", true},
        {"\xC3\xA9", true},
        {"eight by\xC3\xA9", true},
        {std::string("a\0b", 3), true},
        {"\xC0\xAF", false},         // overlong
        {"\xC1\xBF", false},         //
        {"\xE0\x9F\xBF", false},     //
        {"\xF0\x8F\xBF\xBF", false}, //
        {"\xED\xA0\x80", false},     // surrogate
        {"\xED\x9F\xBF", true},      // the last before them
        {"\xEE\x80\x80", true},      // the first after them
        {"\xF4\x8F\xBF\xBF", true},  // U+10FFFF
        {"\xF4\x90\x80\x80", false}, // above
        {"\xF5\x80\x80\x80", false}, //
        {"\x80", false},             // continuation alone
        {"\xC3", false},             // cut
        {"abcdefgh\xE2\x82", false}, //
        {"\xF0\x9F\x98", false},     //
        {"\xFF", false},             //
    };
    for (const auto &c : cases)
        EXPECT_EQ(valid_utf8(slice(c.text)), c.valid) << testing::PrintToString(c.text);
    EXPECT_TRUE(valid_utf8({nullptr, 0}));
}

TEST(Utf8, AgreesWithTheDefinitionOnAllShortTexts) {
    // Every byte in the first two places, the interesting ones in the next two, at every distance from an
    // eight-byte word.
    const unsigned char later[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
    for (int a = 0; a < 256; a++)
        for (int b = 0; b < 256; b++)
            for (unsigned char c : later)
                for (unsigned char d : later) {
                    std::string text(static_cast<size_t>((a + b) % 9), 'x');
                    for (int byte : {a, b, int{c}, int{d}})
                        text.push_back(static_cast<char>(byte));
                    ASSERT_EQ(valid_utf8(slice(text)), model(text)) << testing::PrintToString(text);
                }
}

TEST(Utf8, Cut) {
    struct {
        std::string text;
        size_t limit, expected;
    } cases[] = {
        {"abc", 5, 3},          {"abc", 3, 3},
        {"abc", 2, 2},          {"a\u00e9", 2, 1},
        {"a\u00e9", 3, 3},      {"\U0001F600", 3, 0},
        {"\U0001F600", 4, 4},   {"x\U0001F600y", 5, 5},
        {"\u20ac\u20ac", 5, 3}, {"\x80\x80\x80\x80\x80\x80", 5, 5},
        {"abc", 0, 0},
    };
    for (const auto &c : cases)
        EXPECT_EQ(utf8_cut(c.text, c.limit), c.expected) << testing::PrintToString(c.text) << c.limit;
}

TEST(Utf8, ControlCharacters) {
    for (const char *text : {"\x01", "a\tb", "a\nb", "a\x7f", "a\u0080", "\u009fa", "\u2028", "x\u2029",
                             "a\u202a", "\u202e", "a\u2066b", "\u2069"})
        EXPECT_TRUE(has_control_character(text)) << testing::PrintToString(text);
    EXPECT_TRUE(has_control_character(std::string_view("a\0b", 3)));
    for (const char *text : {"", " ", "~", "\u00a0", "\u00e9", "\u2027", "\u202f", "\u2065", "\u206a",
                             "\u20ac", "\xc2", "\xe2\x80", "\xe2"})
        EXPECT_FALSE(has_control_character(text)) << testing::PrintToString(text);
}

TEST(Utf8, WholeLeavesOutWhatACutLeftOfACharacter) {
    const std::string text = "a\u00e9\u4e2d\U0001f600b\u00e9";
    for (size_t limit = 0; limit <= text.size(); limit++)
        EXPECT_EQ(utf8_whole(std::string_view(text).substr(0, limit)), utf8_cut(text, limit)) << limit;
    EXPECT_EQ(utf8_whole("\x80\x80\x80\x80"), 4u);
}
