// Token authentication: the form that is posted, and what is made of the answer.
#include "core/json_member.hpp"
#include "core/token_auth.hpp"

#include <gtest/gtest.h>

using namespace whisperer::core;

namespace {

JsonFound find(std::string_view document, std::string *value, std::string_view key = "key") {
    return find_json_string(slice(document), key, value);
}

TokenAnswer answer(int status, std::string_view body, bool truncated = false,
                   std::string_view format = "Token {}") {
    HttpResult http{};
    http.failure = Failure::none;
    http.status = status;
    http.body = slice(body);
    http.body_truncated = truncated;
    return read_token_answer(http, "https://login.example:8443/o/token?x=1", "key", format);
}

} // namespace

TEST(JsonMember, FindsAString) {
    std::string value;
    EXPECT_EQ(find(R"({"key": "abc"})", &value), JsonFound::string);
    EXPECT_EQ(value, "abc");
    EXPECT_EQ(find(" \t\r\n{ \"a\" : [1, {\"key\": \"inner\"}] , \"key\" :\"x\" , \"b\":null } \n", &value),
              JsonFound::string);
    EXPECT_EQ(value, "x");
    EXPECT_EQ(find(R"({"key": "\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC\ud83d\uDE00"})", &value),
              JsonFound::string);
    EXPECT_EQ(value, "\"\\/\b\f\n\r\tA\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    EXPECT_EQ(find(R"({"\u006bey": "spelt otherwise"})", &value), JsonFound::string);
    EXPECT_EQ(value, "spelt otherwise");
    EXPECT_EQ(find(R"({"key": "first", "key": "last"})", &value), JsonFound::string);
    EXPECT_EQ(value, "last");
    EXPECT_EQ(find(R"({"key": 1, "key": "last"})", &value), JsonFound::string);
    EXPECT_EQ(find(R"({"key": ""})", &value), JsonFound::string);
    EXPECT_EQ(value, "");
    EXPECT_EQ(find(R"({"": "empty"})", &value, ""), JsonFound::string);
}

TEST(JsonMember, TellsWhatThereIsInstead) {
    std::string value = "untouched";
    for (const char *other : {R"({"key": 1})", R"({"key": null})", R"({"key": {"key": "x"}})",
                              R"({"key": ["x"]})", R"({"key": "first", "key": true})", R"({"key": -0.5e+3})"})
        EXPECT_EQ(find(other, &value), JsonFound::other) << other;
    for (const char *absent :
         {"{}", R"({"Key": "x"})", R"({"a": {"key": "x"}})", R"({"a": 1, "b": [], "c": {}})"})
        EXPECT_EQ(find(absent, &value), JsonFound::absent) << absent;
    for (const char *none : {"[]", "1", "\"key\"", "null", "true", "[{\"key\": \"x\"}]", "-0", "1E5"})
        EXPECT_EQ(find(none, &value), JsonFound::no_object) << none;
    EXPECT_EQ(value, "untouched");
}

TEST(JsonMember, RefusesWhatIsNotJson) {
    std::string value = "untouched";
    for (const char *bad : {"",
                            " ",
                            "{",
                            "}",
                            R"({"key": "x")",
                            R"({"key": "x"},)",
                            R"({"key": "x"} x)",
                            R"({"key": "x",})",
                            R"({key: "x"})",
                            R"({'key': 'x'})",
                            R"({"key" "x"})",
                            R"({"key": x})",
                            R"({"key": "x" "y"})",
                            R"({"key": "x)",
                            R"({"key": "\x"})",
                            R"({"key": "\u12"})",
                            R"({"key": "\ud800"})",
                            R"({"key": "\ud800\u0041"})",
                            R"({"key": "\udc00"})",
                            "{\"key\": \"a\nb\"}",
                            "{\"key\": \"\xff\"}",
                            R"({"a": 01, "key": "x"})",
                            R"({"a": +1, "key": "x"})",
                            R"({"a": 1., "key": "x"})",
                            R"({"a": .5, "key": "x"})",
                            R"({"a": 1e, "key": "x"})",
                            R"({"a": tru, "key": "x"})",
                            R"({"a": [1,], "key": "x"})",
                            R"({"a": [1 2], "key": "x"})",
                            "\xEF\xBB\xBF{\"key\": \"x\"}",
                            "<html></html>",
                            "NaN"})
        EXPECT_EQ(find(bad, &value), JsonFound::malformed) << bad;
    std::string deep = R"({"a": )" + std::string(100000, '[') + std::string(100000, ']') + R"(, "key": "x"})";
    EXPECT_EQ(find(deep, &value), JsonFound::malformed);
    EXPECT_EQ(find(R"({"a": )" + std::string(60, '[') + std::string(60, ']') + R"(, "b": "x"})", &value),
              JsonFound::absent);
    EXPECT_EQ(value, "untouched");
}

TEST(TokenForm, IsUrlEncoded) {
    TokenFields fields{};
    fields.username_field = slice("username");
    fields.username = slice("a b&c=d%+*-._~");
    fields.password_field = slice("pass word");
    fields.password = slice("\xC3\xA9\x7F");
    EXPECT_EQ(token_form(fields), "username=a+b%26c%3Dd%25%2B*-._%7E&pass+word=%C3%A9%7F");
    fields.password = slice("");
    EXPECT_EQ(token_form(fields), "username=a+b%26c%3Dd%25%2B*-._%7E&pass+word=");
}

TEST(TokenAnswer, BecomesAHeader) {
    TokenAnswer good = answer(200, R"({"key": "t0ken"})");
    EXPECT_EQ(good.error, "");
    EXPECT_EQ(good.authorization, "Token t0ken");
    EXPECT_EQ(answer(201, R"({"key": "x{}"})", false, "A={}; B").authorization, "A=x{}; B");
    EXPECT_EQ(answer(200, "{\"key\": \"" + std::string(max_token_size, 'x') + "\"}").error, "");
}

TEST(TokenAnswer, SaysWhatIsWrongAndNeverTheToken) {
    EXPECT_EQ(answer(403, "{}").error, "token request to https://login.example:8443 answered 403");
    EXPECT_EQ(answer(302, "").error, "token request to https://login.example:8443 answered 302");
    EXPECT_EQ(answer(200, "<html>").error,
              "token request to https://login.example:8443 answered no JSON object");
    EXPECT_EQ(answer(200, "[]").error, "token request to https://login.example:8443 answered no JSON object");
    EXPECT_EQ(answer(200, R"({"key": 5})").error,
              "token request to https://login.example:8443 answered a JSON object without the string that "
              "config.auth.token_key names");
    EXPECT_EQ(answer(200, R"({"key": "x"})", true).error,
              "token request to https://login.example:8443 answered with more than 65536 bytes");
    for (const std::string &bad :
         {std::string(), std::string("se cret"), std::string("secret\\r\\nX: y"), std::string("s\xC3\xA9"),
          std::string("s\\u0000"), std::string(max_token_size + 1, 's')}) {
        TokenAnswer refused = answer(200, "{\"key\": \"" + bad + "\"}");
        EXPECT_EQ(refused.error,
                  "token request to https://login.example:8443 answered a token that is empty, not visible "
                  "ASCII, or longer than 8192 bytes");
        EXPECT_EQ(refused.authorization, "");
    }
    HttpResult http{};
    http.failure = Failure::connect;
    http.error = slice("connection refused");
    EXPECT_EQ(read_token_answer(http, "http://h/", "key", "{}").error,
              "token request to http://h failed: connection refused");
}
