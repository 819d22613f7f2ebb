#include "core/networks.hpp"

#include <gtest/gtest.h>

#include <string>

using namespace whisperer::core;

TEST(Networks, Lists) {
    AddressPolicy policy{};
    FieldError error{};
    for (const char *text : {"", " ", ",", " ,\t\n, "}) {
        policy.allowed_count = 7;
        EXPECT_TRUE(parse_networks(slice(text), &policy, &error));
        EXPECT_EQ(policy.allowed_count, 0u);
    }
    ASSERT_TRUE(parse_networks(slice("10.0.0.0/8,192.168.1.7  fd00::/8,\n::1 ,0.0.0.0/0"), &policy, &error));
    ASSERT_EQ(policy.allowed_count, 5u);
    EXPECT_EQ(policy.allowed[0].prefix, 8);
    EXPECT_FALSE(policy.allowed[0].address.v6);
    EXPECT_EQ(policy.allowed[1].prefix, 32);
    EXPECT_EQ(policy.allowed[1].address.bytes[3], 7);
    EXPECT_TRUE(policy.allowed[2].address.v6);
    EXPECT_EQ(policy.allowed[2].prefix, 8);
    EXPECT_EQ(policy.allowed[3].prefix, 128);
    EXPECT_EQ(policy.allowed[4].prefix, 0);
}

TEST(Networks, MappedBlocksAreV4Blocks) {
    AddressPolicy policy{};
    ASSERT_TRUE(parse_networks(slice("::ffff:10.0.0.0/104 ::ffff:1.2.3.4 ::/0"), &policy, nullptr));
    EXPECT_FALSE(policy.allowed[0].address.v6);
    EXPECT_EQ(policy.allowed[0].prefix, 8);
    EXPECT_EQ(policy.allowed[0].address.bytes[0], 10);
    EXPECT_EQ(policy.allowed[1].prefix, 32);
    EXPECT_TRUE(policy.allowed[2].address.v6);
}

TEST(Networks, Refused) {
    struct {
        const char *text, *item, *why;
    } cases[] = {
        {"localhost", "\"localhost\"", "not an address"},
        {"10.0.0.0/8, foo", "\"foo\"", "not an address"},
        {"10.0.0/8", "\"10.0.0/8\"", "not an address"},
        {"127.1", "\"127.1\"", "not an address"},
        {"010.0.0.1", "\"010.0.0.1\"", "not an address"},
        {"256.0.0.1", "\"256.0.0.1\"", "not an address"},
        {"fe80::1%eth0", "\"fe80::1%eth0\"", "not an address"},
        {"[::1]", "\"[::1]\"", "not an address"},
        {"1:2:3:4:5:6:7:8:9", "\"1:2:3:4:5:6:7:8:9\"", "not an address"},
        {"/8", "\"/8\"", "not an address"},
        {"10.0.0.0/", "\"10.0.0.0/\"", "prefix"},
        {"10.0.0.0/33", "\"10.0.0.0/33\"", "prefix"},
        {"10.0.0.0/-1", "\"10.0.0.0/-1\"", "prefix"},
        {"10.0.0.0/8/8", "\"10.0.0.0/8/8\"", "prefix"},
        {"10.0.0.0/255.0.0.0", "\"10.0.0.0/255.0.0.0\"", "prefix"},
        {"10.0.0.0/4294967304", "\"10.0.0.0/4294967304\"", "prefix"},
        {"::/129", "\"::/129\"", "prefix"},
        {"10.0.0.1/8", "\"10.0.0.1/8\"", "bits set"},
        {"192.168.1.128/24", "\"192.168.1.128/24\"", "bits set"},
        {"0.0.0.1/0", "\"0.0.0.1/0\"", "bits set"},
        {"fd00::1/8", "\"fd00::1/8\"", "bits set"},
        {"8000::/0", "\"8000::/0\"", "bits set"},
    };
    for (const auto &c : cases) {
        AddressPolicy policy{};
        policy.allowed_count = 3;
        FieldError error{};
        EXPECT_FALSE(parse_networks(slice(c.text), &policy, &error)) << c.text;
        EXPECT_STREQ(error.field, "whisperer.allowed_networks");
        EXPECT_NE(std::string(error.message).find(c.item), std::string::npos) << error.message;
        EXPECT_NE(std::string(error.message).find(c.why), std::string::npos) << error.message;
        EXPECT_STRNE(error.hint, "");
        EXPECT_EQ(policy.allowed_count, 3u) << "a refusal must leave the policy alone";
    }
    FieldError error{};
    AddressPolicy policy{};
    EXPECT_FALSE(parse_networks(slice("10.200.3.4/9"), &policy, &error));
    EXPECT_NE(std::string(error.hint).find("10.128.0.0/9"), std::string::npos) << error.hint;
}

TEST(Networks, AtMost256) {
    std::string text;
    for (int i = 0; i < 256; i++)
        text += "10.0.0." + std::to_string(i) + ",";
    AddressPolicy policy{};
    FieldError error{};
    EXPECT_TRUE(parse_networks(slice(text), &policy, &error));
    EXPECT_EQ(policy.allowed_count, 256u);
    EXPECT_FALSE(parse_networks(slice(text + "10.0.1.0"), &policy, &error));
    EXPECT_NE(std::string(error.message).find("\"10.0.1.0\""), std::string::npos);
}
