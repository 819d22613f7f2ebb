#include "core/uuid7.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

using namespace whisperer::core;

namespace {
std::string dashed(const Uuid &uuid) {
    char out[uuid_text_size];
    format_uuid(uuid, out);
    return out;
}
} // namespace

TEST(Uuid7, Layout) {
    // The example of RFC 9562, appendix A.6: 2022-02-22 14:22:22.00 in milliseconds 017F22E279B0
    EXPECT_EQ(dashed(make_uuid7(INT64_C(1645557742000000), 0)), "017f22e2-79b0-7000-8000-000000000000");
    EXPECT_EQ(dashed(make_uuid7(INT64_C(1645557742000000), ~UINT64_C(0))),
              "017f22e2-79b0-7003-bfff-ffffffffffff");
    EXPECT_EQ(dashed(make_uuid7(INT64_C(1645557742000999), 0)), "017f22e2-79b0-7f9c-8000-000000000000");
    EXPECT_EQ(dashed(make_uuid7(INT64_C(1645557742000001), 0x18C4DC0C0C07398F)),
              "017f22e2-79b0-7004-98c4-dc0c0c07398f");
    EXPECT_EQ(dashed(make_uuid7(0, 0)), "00000000-0000-7000-8000-000000000000");
    EXPECT_EQ(dashed(make_uuid7(-5, 0)), "00000000-0000-7000-8000-000000000000");
}

TEST(Uuid7, VersionAndVariantAlways) {
    std::mt19937_64 random(7);
    for (int i = 0; i < 1000; i++) {
        Uuid uuid = make_uuid7(static_cast<int64_t>(random()), random());
        EXPECT_EQ(uuid.bytes[6] >> 4, 7);
        EXPECT_EQ(uuid.bytes[8] >> 6, 2);
    }
}

TEST(Uuid7, OrderedByMicroseconds) {
    std::mt19937_64 random(7);
    int64_t time = INT64_C(1790000000000000);
    Uuid last = make_uuid7(time, random());
    for (int i = 0; i < 5000; i++) {
        Uuid next = make_uuid7(++time, random());
        ASSERT_TRUE(last < next) << dashed(last) << " " << dashed(next);
        last = next;
    }
}

TEST(Uuid7, RandomBitsAllCount) {
    std::set<std::string> seen;
    for (int bit = 0; bit < 64; bit++)
        seen.insert(dashed(make_uuid7(1000, UINT64_C(1) << bit)));
    EXPECT_EQ(seen.size(), 64u);
}

TEST(Uuid7, TextForms) {
    Uuid uuid;
    ASSERT_TRUE(parse_uuid(slice("da81e851-3982-4c61-87dd-1e58a7d3f971"), &uuid));
    EXPECT_EQ(dashed(uuid), "da81e851-3982-4c61-87dd-1e58a7d3f971");
    char hex[uuid_hex_size];
    format_uuid_hex(uuid, hex);
    EXPECT_STREQ(hex, "da81e85139824c6187dd1e58a7d3f971");
    Uuid same;
    ASSERT_TRUE(parse_uuid(slice(hex), &same));
    EXPECT_EQ(uuid, same);
    ASSERT_TRUE(parse_uuid(slice("DA81E851-3982-4C61-87DD-1E58A7D3F971"), &same));
    EXPECT_EQ(uuid, same);
}

TEST(Uuid7, NoUuids) {
    for (const char *text : {"", "da81e85139824c6187dd1e58a7d3f97", "da81e85139824c6187dd1e58a7d3f9711",
                             "da81e85139824c6187dd1e58a7d3f97g", "{da81e851-3982-4c61-87dd-1e58a7d3f971}",
                             "da81e8513-982-4c61-87dd-1e58a7d3f971", "da81e851-3982-4c61-87dd-1e58a7d3f97-",
                             "da81e85139824c61-87dd1e58a7d3f971", "-da81e85139824c6187dd1e58a7d3f97",
                             "da81e851-3982-4c61-87dd+1e58a7d3f971"}) {
        Uuid uuid{};
        EXPECT_FALSE(parse_uuid(slice(text), &uuid)) << text;
        EXPECT_EQ(uuid, Uuid{});
    }
}
