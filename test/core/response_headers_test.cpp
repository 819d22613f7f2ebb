#include "core/response_headers.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

using namespace whisperer::core;

namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

Fields parse(const std::string &lines) {
    std::vector<char> room(lines.size());
    std::vector<ResponseHeader> headers(count_header_lines(slice(lines)));
    headers.resize(parse_response_headers(slice(lines), room.data(), headers.data()));
    Fields fields;
    for (const ResponseHeader &header : headers)
        fields.emplace_back(header.name.view(), header.value.view());
    return fields;
}

TEST(ResponseHeaders, AreReadAsTheyCome) {
    const struct {
        const char *lines;
        Fields fields;
    } cases[] = {
        {"", {}},
        {"A: 1", {{"a", "1"}}},
        {"Content-Type: text/plain\r\nX-Two: 2\r\n", {{"content-type", "text/plain"}, {"x-two", "2"}}},
        {"A: 1\nB: 2", {{"a", "1"}, {"b", "2"}}},
        {"A:1\r\nB: \t 2 \r\nC:\r\nD", {{"a", "1"}, {"b", "2"}, {"c", ""}}},
        {"no field\r\n: no name\r\n\r\nA: b:c", {{"a", "b:c"}}},
        {"A: 1\rX: 3\nB: 2\r\r\n", {{"a", "1 X: 3"}, {"b", "2"}}}, // smuggled by a stray CR
        {"A : 1\n : x", {{"a", "1 : x"}}},
        {"A: 1\r\n  2\r\n\t\r\n 3\nB:\n x\n\n y", {{"a", "1 2 3"}, {"b", "x"}}}, // folded
        {" lost\nno field\n lost\n: no name\n lost\nA: 1", {{"a", "1"}}},
        {"\xC3\x84: \xC3\x84\nA\xC3: x",
         {{"\xC3\x84", "\xC3\x84"}, {"a\xC3", "x"}}}, // only ASCII has a lower case here
    };
    for (const auto &one : cases)
        EXPECT_EQ(parse(one.lines), one.fields) << one.lines;
}

TEST(ResponseHeaders, ThoseRepeatedAreJoined) {
    EXPECT_EQ(parse("Set-Cookie: a\r\nB: x\r\nset-cookie: b\r\nSET-COOKIE:\r\nB: y"),
              (Fields{{"set-cookie", "a, b, "}, {"b", "x, y"}}));
    // The tightest that there is: what comes must fit into what goes.
    EXPECT_EQ(parse("a:\na:\na:\na:"), (Fields{{"a", ", , , "}}));
    EXPECT_EQ(parse("ab: 1\na: 2\nAB: 3"), (Fields{{"ab", "1, 3"}, {"a", "2"}}));
}

} // namespace
