#include "core/signing.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

using namespace whisperer::core;

namespace {

std::string body_signature(const std::string &secret, const std::string &body) {
    char out[body_signature_size];
    return sign_body(slice(secret), slice(body), out) ? out : "";
}

std::string webhook_signature(const std::string &secret, const std::string &id, int64_t time,
                              const std::string &body) {
    char out[webhook_signature_size];
    return sign_webhook(slice(secret), slice(id), time, slice(body), out) ? out : "";
}

} // namespace

TEST(Signing, BodySignature) {
    // RFC 4231, test case 2
    EXPECT_EQ(body_signature("Jefe", "what do ya want for nothing?"),
              "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    // RFC 4231, test case 6: a key longer than a block
    EXPECT_EQ(
        body_signature(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First"),
        "sha256=60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    // HMAC with the whole secret, also when it is an encoded one (computed with openssl dgst).
    EXPECT_EQ(body_signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "{}"),
              "sha256=6cbbcdf2c8016ca85b50543b19e8e121ef16137967bdfa3ce660972922bafaeb");
    EXPECT_EQ(body_signature("k", "").size(), body_signature_size - 1);
}

TEST(Signing, WebhookSignature) {
    // The example of the Standard Webhooks reference libraries.
    EXPECT_EQ(webhook_signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek",
                                1614265330, R"({"test": 2432232314})"),
              "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    // A secret without the prefix is its own bytes (computed with openssl dgst).
    EXPECT_EQ(webhook_signature("plain", "id", 7, "{}"), "v1,9DXiRe2seJFL/zNdZdGICuIhHkV/oj0UijdUSV/idYw=");
    // Padded base64 stands for the same bytes as the raw secret.
    EXPECT_EQ(webhook_signature("whsec_cGxhaW4=", "id", 7, "{}"), webhook_signature("plain", "id", 7, "{}"));
    EXPECT_EQ(webhook_signature("whsec_YWJjZA==", "id", 7, "{}"), webhook_signature("abcd", "id", 7, "{}"));
    // Each part counts.
    EXPECT_NE(webhook_signature("plain", "id", 8, "{}"), webhook_signature("plain", "id", 7, "{}"));
    EXPECT_NE(webhook_signature("plain", "ie", 7, "{}"), webhook_signature("plain", "id", 7, "{}"));
    EXPECT_NE(webhook_signature("plain", "id", 7, "[]"), webhook_signature("plain", "id", 7, "{}"));
}

TEST(Signing, OneKeyAfterAnother) {
    const std::string keys[] = {"Jefe", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "k",
                                std::string(131, '\xaa')};
    std::vector<std::string> first;
    for (const std::string &key : keys)
        first.push_back(body_signature(key, "text") + webhook_signature(key, "id", 1, "text"));
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++) {
            EXPECT_EQ(body_signature(keys[i], "text") + webhook_signature(keys[i], "id", 1, "text"),
                      first[i]);
            EXPECT_EQ(body_signature(keys[j], "text") + webhook_signature(keys[j], "id", 1, "text"),
                      first[j]);
            EXPECT_NE(body_signature(keys[j], "texts"), body_signature(keys[j], "text"));
        }
    EXPECT_EQ(body_signature("", "text"), "");
    EXPECT_EQ(body_signature("k", "text") + webhook_signature("k", "id", 1, "text"), first[2]);
}

TEST(Signing, BadSecretsSignNothing) {
    char body[body_signature_size] = "old";
    char webhook[webhook_signature_size] = "old";
    EXPECT_FALSE(sign_body(slice(""), slice("x"), body));
    EXPECT_STREQ(body, "");
    for (const char *secret : {"", "whsec_", "whsec_abc"}) {
        strcpy(webhook, "old");
        EXPECT_FALSE(sign_webhook(slice(secret), slice("id"), 1, slice("x"), webhook)) << secret;
        EXPECT_STREQ(webhook, "");
    }
}

TEST(Signing, SecretsAccepted) {
    for (const char *secret : {"x", " ", "whsec", "WHSEC_???", "whsec-abc", "p\u00e4sswort",
                               "whsec_YQ==", "whsec_YWI=", "whsec_YWJj", "whsec_+/+/", "whsec_YR=="}) {
        FieldError error{};
        EXPECT_TRUE(check_secret(slice(secret), &error)) << secret << ": " << error.message;
        EXPECT_NE(webhook_signature(secret, "id", 1, "x"), "") << secret;
    }
}

TEST(Signing, SecretsHaveALimit) {
    FieldError error{};
    EXPECT_TRUE(check_secret(slice(std::string(max_secret_size, 'x')), &error));
    EXPECT_FALSE(check_secret(slice(std::string(max_secret_size + 1, 'x')), &error));
    EXPECT_STREQ(error.field, "secret_key");
    EXPECT_STREQ(error.message, "is longer than 65536 bytes");
}

TEST(Signing, SecretsRefused) {
    for (const char *secret : {"", "whsec_", "whsec_a", "whsec_YQ", "whsec_YQ=", "whsec_YQ===", "whsec_====",
                               "whsec_Y===", "whsec_YQ==YQ==", "whsec_Y=Q=", "whsec_YWJj\n", "whsec_ YWJj",
                               "whsec_YW Jj", "whsec_YW-_", "whsec_YWJ\xc3\xa9", "whsec_YWJj===="}) {
        FieldError error{};
        EXPECT_FALSE(check_secret(slice(secret), &error)) << secret;
        EXPECT_STREQ(error.field, "secret_key");
        EXPECT_STRNE(error.hint, "");
        if (strlen(secret) > 6) {
            EXPECT_EQ(std::string(error.message).find(secret), std::string::npos) << "shows the secret";
        }
    }
}

TEST(Signing, WorksInThreads) {
    std::vector<std::thread> threads;
    std::vector<std::string> results(4);
    for (size_t i = 0; i < results.size(); i++)
        threads.emplace_back(
            [&results, i] { results[i] = body_signature("Jefe", "what do ya want for nothing?"); });
    for (auto &thread : threads)
        thread.join();
    for (const auto &result : results)
        EXPECT_EQ(result, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}
