#include "core/address_policy.hpp"
#include "core/networks.hpp"

#include <gtest/gtest.h>

#include <arpa/inet.h>

#include <string>

using namespace whisperer::core;

namespace {

Address address(const std::string &text) {
    Address parsed{};
    parsed.v6 = text.find(':') != std::string::npos;
    EXPECT_EQ(inet_pton(parsed.v6 ? AF_INET6 : AF_INET, text.c_str(), parsed.bytes.data()), 1) << text;
    return parsed;
}

AddressPolicy policy(const std::string &networks) {
    AddressPolicy parsed{};
    FieldError error{};
    EXPECT_TRUE(parse_networks(slice(networks), &parsed, &error)) << error.message;
    return parsed;
}

std::string kind(const std::string &text) {
    const char *found = special_kind(address(text));
    bool refused = judge(policy(""), address(text)) == AddressVerdict::refused;
    EXPECT_EQ(refused, found != nullptr) << text;
    return found == nullptr ? "public" : found;
}

bool allowed(const std::string &networks, const std::string &text) {
    return judge(policy(networks), address(text)) == AddressVerdict::allowed;
}

} // namespace

TEST(AddressPolicy, EveryBlockAndItsNeighbours) {
    struct {
        const char *before, *before_kind; // null: there is none
        const char *first, *last, *kind;
        const char *after, *after_kind;
    } blocks[] = {
        {nullptr, "", "0.0.0.0", "0.255.255.255", "unspecified", "1.0.0.0", "public"},
        {"9.255.255.255", "public", "10.0.0.0", "10.255.255.255", "private", "11.0.0.0", "public"},
        {"100.63.255.255", "public", "100.64.0.0", "100.127.255.255", "shared", "100.128.0.0", "public"},
        {"126.255.255.255", "public", "127.0.0.0", "127.255.255.255", "loopback", "128.0.0.0", "public"},
        {"169.253.255.255", "public", "169.254.0.0", "169.254.255.255", "link-local", "169.255.0.0",
         "public"},
        {"172.15.255.255", "public", "172.16.0.0", "172.31.255.255", "private", "172.32.0.0", "public"},
        {"191.255.255.255", "public", "192.0.0.0", "192.0.0.255", "reserved", "192.0.1.0", "public"},
        {"192.0.1.255", "public", "192.0.2.0", "192.0.2.255", "documentation", "192.0.3.0", "public"},
        {"192.88.98.255", "public", "192.88.99.0", "192.88.99.255", "reserved", "192.88.100.0", "public"},
        {"192.167.255.255", "public", "192.168.0.0", "192.168.255.255", "private", "192.169.0.0", "public"},
        {"198.17.255.255", "public", "198.18.0.0", "198.19.255.255", "benchmark", "198.20.0.0", "public"},
        {"198.51.99.255", "public", "198.51.100.0", "198.51.100.255", "documentation", "198.51.101.0",
         "public"},
        {"203.0.112.255", "public", "203.0.113.0", "203.0.113.255", "documentation", "203.0.114.0", "public"},
        {"223.255.255.255", "public", "224.0.0.0", "239.255.255.255", "multicast", "240.0.0.0", "reserved"},
        {"239.255.255.255", "multicast", "240.0.0.0", "255.255.255.254", "reserved", "255.255.255.255",
         "broadcast"},
        {nullptr, "", "::", "::", "unspecified", "::1", "loopback"},
        {"::", "unspecified", "::1", "::1", "loopback", "::2", "unspecified"}, // 0.0.0.2 in it
        {"::ff:ffff", "unspecified", "::100:0", "::9ff:ffff", "v4-compatible", "::a00:0", "private"},
        {"::fffe:ffff:ffff", "reserved", "::ffff:0.0.0.0", "::ffff:0.255.255.255", "unspecified",
         "::ffff:1.0.0.0", "public"},
        {"::ffff:223.255.255.255", "public", "::ffff:224.0.0.0", "::ffff:239.255.255.255", "multicast",
         "::1:0:0:0", "reserved"},
        {"64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "reserved", "64:ff9b::0.0.0.0", "64:ff9b::0.255.255.255",
         "unspecified", "64:ff9b::1.0.0.0", "public"},
        {"64:ff9b::255.255.255.255", "broadcast", "64:ff9b::1:0:0", "64:ff9b:0:ffff:ffff:ffff:ffff:ffff",
         "reserved", "64:ff9b:1::", "local NAT64"},
        {"64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "reserved",
         "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "local NAT64", "64:ff9b:2::", "reserved"},
        {"ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved", "100::", "100::ffff:ffff:ffff:ffff",
         "discard-only", "100:0:0:1::", "reserved"}, // the dummy prefix, and what is not assigned
        {"1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved",
         "2001::", "2001::ffff:ffff:ffff:ffff:ffff:ffff", "Teredo", "2001:1::", "reserved"},
        {"2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "public",
         "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo", "2001:1::", "reserved"},
        {"2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo", "2001:1::", "2001:1:ffff:ffff:ffff:ffff:ffff:ffff",
         "reserved", "2001:2::", "benchmark"},
        {"2001:1:ffff:ffff:ffff:ffff:ffff:ffff", "reserved", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff",
         "benchmark", "2001:2:1::", "reserved"},
        {"2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmark",
         "2001:2:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved", "2001:200::", "public"},
        {"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "public",
         "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation", "2001:db9::", "public"},
        {"2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "public",
         "2002:a00::", "2002:aff:ffff:ffff:ffff:ffff:ffff:ffff", "private", "2002:b00::", "public"},
        {"2002:e000::", "multicast", "2002:f000::", "2002:ffff:fffe:ffff:ffff:ffff:ffff:ffff", "reserved",
         "2003::", "public"},
        {"3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "public",
         "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation", "3fff:1000::", "public"},
        {"3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "public",
         "4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved", "fc00::", "private"},
        {"5eff::", "reserved", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved",
         "5f01::", "reserved"},
        {"fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved",
         "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private", "fe00::", "reserved"},
        {"fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved",
         "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local", "fec0::", "private"},
        {"febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local",
         "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private", "ff00::", "multicast"},
        {"feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private",
         "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast", nullptr, ""},
    };
    for (const auto &block : blocks) {
        if (block.before != nullptr) {
            EXPECT_EQ(kind(block.before), block.before_kind) << block.before;
        }
        EXPECT_EQ(kind(block.first), block.kind) << block.first;
        EXPECT_EQ(kind(block.last), block.kind) << block.last;
        if (block.after != nullptr) {
            EXPECT_EQ(kind(block.after), block.after_kind) << block.after;
        }
    }
}

TEST(AddressPolicy, PublicAddresses) {
    for (const char *text :
         {"8.8.8.8", "1.1.1.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "2606:4700::1111",
          "2620:4f:8000::1", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"})
        EXPECT_EQ(kind(text), "public") << text;
}

TEST(AddressPolicy, HiddenV4Addresses) {
    for (const char *v4 : {"127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "100.64.0.1", "0.0.0.0",
                           "224.0.0.1", "255.255.255.255"}) {
        Address plain = address(v4);
        char six[64];
        snprintf(six, sizeof(six), "2002:%02x%02x:%02x%02x::1", plain.bytes[0], plain.bytes[1],
                 plain.bytes[2], plain.bytes[3]);
        std::string expected = kind(v4);
        EXPECT_EQ(kind(std::string("::ffff:") + v4), expected);
        EXPECT_EQ(kind(std::string("64:ff9b::") + v4), expected);
        EXPECT_EQ(kind(six), expected);
        if (std::string(v4) != "0.0.0.0") { // that is "::"
            EXPECT_EQ(kind(std::string("::") + v4), expected);
        }
        EXPECT_EQ(kind(std::string("64:ff9b:1::") + v4), "local NAT64");
    }
    // Long deprecated, so refused whatever is in them.
    EXPECT_EQ(kind("::8.8.8.8"), "v4-compatible");
    EXPECT_EQ(kind("64:ff9b:1::8.8.8.8"), "local NAT64");
    EXPECT_EQ(kind("2001:0:808:808::1"), "Teredo");
    EXPECT_EQ(kind("::ffff:0:8.8.8.8"), "reserved"); // SIIT, RFC 2765
}

TEST(AddressPolicy, AllowedNetworks) {
    struct {
        const char *networks, *address;
        bool allowed;
    } cases[] = {
        {"", "8.8.8.8", true},
        {"10.0.0.0/8", "8.8.8.8", true},
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "11.0.0.0", true},
        {"10.0.0.0/8", "127.0.0.1", false},
        {"10.1.2.3", "10.1.2.3", true},
        {"10.1.2.3", "10.1.2.4", false},
        {"10.1.2.0/31", "10.1.2.1", true},
        {"10.1.2.0/31", "10.1.2.2", false},
        {"172.16.0.0/13", "172.23.255.255", true},
        {"172.16.0.0/13", "172.24.0.0", false},
        {"127.0.0.0/8, ::1", "::1", true},
        {"127.0.0.0/8", "::1", false},
        {"0.0.0.0/0", "127.0.0.1", true},
        {"0.0.0.0/0", "::1", false},
        {"0.0.0.0/0", "::", false},
        {"0.0.0.0/0", "fd00::1", false},
        {"::/0", "::1", true},
        {"::/0", "fe80::1", true},
        {"::/0", "2001:0:808:808::1", true},
        {"::/0", "64:ff9b:1::1", true},
        {"fd00::/8", "fd12::1", true},
        {"fd00::/8", "fc00::1", false},
        {"fe80::/10", "febf::1", true},
        // A v4 network opens its addresses in every form that reaches them.
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"10.0.0.0/8", "::10.1.2.3", true},
        {"10.0.0.0/8", "64:ff9b::10.1.2.3", true},
        {"10.0.0.0/8", "2002:a01:203::1", true},
        {"10.0.0.0/8", "::ffff:127.0.0.1", false},
        {"10.0.0.0/8", "64:ff9b:1::10.1.2.3", false},
        {"10.0.0.0/8", "2001:0:a01:203::1", false},
        // A v6 network is no way around the v4 list unless it says so.
        {"::/0", "127.0.0.1", false},
        {"::/0", "::ffff:127.0.0.1", false},
        {"::/0", "64:ff9b::10.0.0.1", false},
        {"2000::/3", "2002:a00:1::1", false},
        {"2002::/16", "2002:a00:1::1", true},
        {"64:ff9b::/96", "64:ff9b::10.0.0.1", true},
        {"64:ff9b::/95", "64:ff9b::10.0.0.1", false},
        {"::ffff:10.0.0.0/104", "::ffff:10.0.0.1", true},
        {"::ffff:10.0.0.0/104", "10.0.0.1", true},
        {"64:ff9b:1::/48", "64:ff9b:1::10.0.0.1", true},
    };
    for (const auto &c : cases)
        EXPECT_EQ(allowed(c.networks, c.address), c.allowed) << c.networks << " and " << c.address;
}

TEST(AddressPolicy, NonsenseInThePolicyOpensNothing) {
    AddressPolicy broken{};
    broken.allowed_count = 1;
    broken.allowed[0].prefix = -1;
    EXPECT_EQ(judge(broken, address("10.0.0.1")), AddressVerdict::refused);
    broken.allowed[0].prefix = 33;
    EXPECT_EQ(judge(broken, address("0.0.0.0")), AddressVerdict::refused);
}
