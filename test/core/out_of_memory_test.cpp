// Where memory runs out: nothing ends the process, nothing is lost or stuck, and what could not be done says
// so. Each allocation of what the shell and the sending thread call fails once, in turn.
#include "core/change_cursor.hpp"
#include "core/request_builder.hpp"
#include "core/signing.hpp"

#include "failing_memory.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

namespace whisperer::core::test {
namespace {

struct Plan {
    bool active = false;
    long passes = 0;
    long fails = 0;
    long failed = 0;
};
thread_local Plan plan;

bool fails() noexcept {
    if (!plan.active || plan.fails == 0)
        return false;
    if (plan.passes > 0) {
        plan.passes--;
        return false;
    }
    plan.fails--;
    plan.failed++;
    return true;
}

void *allocate(std::size_t size, std::size_t alignment) noexcept {
    if (fails())
        return nullptr;
    void *memory = nullptr;
    if (alignment <= alignof(std::max_align_t))
        return std::malloc(size == 0 ? 1 : size);
    return posix_memalign(&memory, alignment, size) == 0 ? memory : nullptr;
}

void *allocate_or_throw(std::size_t size, std::size_t alignment) {
    void *memory = allocate(size, alignment);
    if (memory == nullptr)
        throw std::bad_alloc();
    return memory;
}

} // namespace

void plan_memory(long passes, long fails) noexcept {
    plan.passes = passes;
    plan.fails = fails;
    plan.failed = 0;
}
long memory_failures() noexcept {
    return plan.failed;
}
Memory::Memory(bool may_fail) noexcept : before_(plan.active) {
    plan.active = may_fail;
}
Memory::~Memory() {
    plan.active = before_;
}

} // namespace whisperer::core::test

// All of them: a sanitizer's runtime has its own of those that are not replaced.
#define NOT_INLINE __attribute__((noinline)) // or the compiler takes free() for a mistake
namespace test = whisperer::core::test;
constexpr std::size_t usual = alignof(std::max_align_t);
NOT_INLINE void *operator new(std::size_t size) {
    return test::allocate_or_throw(size, usual);
}
NOT_INLINE void *operator new[](std::size_t size) {
    return test::allocate_or_throw(size, usual);
}
NOT_INLINE void *operator new(std::size_t size, std::align_val_t alignment) {
    return test::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
NOT_INLINE void *operator new[](std::size_t size, std::align_val_t alignment) {
    return test::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
NOT_INLINE void *operator new(std::size_t size, const std::nothrow_t &) noexcept {
    return test::allocate(size, usual);
}
NOT_INLINE void *operator new[](std::size_t size, const std::nothrow_t &) noexcept {
    return test::allocate(size, usual);
}
NOT_INLINE void operator delete(void *memory) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete[](void *memory) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete(void *memory, std::size_t) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete[](void *memory, std::size_t) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete(void *memory, std::align_val_t) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete[](void *memory, std::align_val_t) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete(void *memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete[](void *memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete(void *memory, const std::nothrow_t &) noexcept {
    std::free(memory);
}
NOT_INLINE void operator delete[](void *memory, const std::nothrow_t &) noexcept {
    std::free(memory);
}

namespace whisperer::core::test {
namespace {

TEST(OutOfMemory, ASnapshotIsMadeOrNot) {
    const Xid running[] = {12, 15, 17};
    EXPECT_GT(try_each_allocation([&] { return Snapshot::make(10, 20, running, 3); },
                                  [](const auto &snapshot, bool failed) {
                                      EXPECT_EQ(snapshot == nullptr, failed);
                                      EXPECT_TRUE(snapshot == nullptr || snapshot->visible(16));
                                  }),
              0);
}

// What could not be planned is planned the next time, and nothing counts as read.
TEST(OutOfMemory, AChangeCursorStaysWhereItWas) {
    const Xid running[] = {12};
    for (int number = 0;; number++) {
        plan_memory(number, 1);
        bool planned = false;
        std::unique_ptr<ChangeCursor> cursor;
        {
            const Memory failing(true);
            cursor.reset(ChangeCursor::create());
            planned = cursor != nullptr && cursor->advance(10, 20, running, 1);
        }
        const bool failed = memory_failures() > 0;
        EXPECT_EQ(planned, !failed);
        if (cursor == nullptr)
            continue;
        ASSERT_TRUE(cursor->advance(10, 20, running, 1));
        cursor->done();
        plan_memory(0, 1);
        {
            const Memory failing(true);
            EXPECT_FALSE(cursor->advance(30, 30, nullptr, 0));
        }
        ASSERT_TRUE(cursor->advance(30, 30, nullptr, 0));
        ASSERT_EQ(cursor->range_count(), 2u);
        EXPECT_EQ(cursor->range(0), (XidRange{12, 13}));
        EXPECT_EQ(cursor->range(1), (XidRange{20, 30}));
        if (!failed)
            break;
    }
}

// Also the first in its thread, which prepares OpenSSL's part.
TEST(OutOfMemory, ASignatureIsMadeOrNot) {
    const std::string secret = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    char right_body[body_signature_size], right_webhook[webhook_signature_size];
    ASSERT_TRUE(sign_body(slice(secret), slice("{}"), right_body));
    ASSERT_TRUE(sign_webhook(slice(secret), slice("id"), 1, slice("{}"), right_webhook));
    std::thread([&] {
        try_each_allocation(
            [&] {
                char body[body_signature_size], webhook[webhook_signature_size];
                const bool by_body = sign_body(slice(secret), slice("{}"), body);
                const bool by_webhook = sign_webhook(slice(secret), slice("id"), 1, slice("{}"), webhook);
                return (!by_body || std::strcmp(body, right_body) == 0) &&
                       (!by_webhook || std::strcmp(webhook, right_webhook) == 0);
            },
            [](bool right, bool) { EXPECT_TRUE(right); });
    }).join();
}

TEST(OutOfMemory, ARequestIsBuiltOrNot) {
    const Slice lines[] = {slice("X-One: 1"), slice("X-Two: a value that is longer than a short string's")};
    RequestParts parts{};
    parts.event_type = slice("package-created");
    const std::string payload(1000, 'x');
    parts.payload = slice(payload);
    parts.user_agent = slice("test/1");
    parts.user_headers = lines;
    parts.user_header_count = 2;
    for (bool signs : {false, true}) {
        parts.has_secret = signs;
        parts.secret = slice("a secret of more than a few bytes");
        for (int number = 0;; number++) {
            plan_memory(number, 1);
            RequestBuilder builder;
            bool built = false;
            {
                const Memory failing(true);
                built = builder.build(parts);
            }
            const bool failed = memory_failures() > 0;
            EXPECT_TRUE(built || failed);
            EXPECT_FALSE(builder.cannot_sign()) << "that would count as an attempt";
            EXPECT_EQ(builder.header_count(), built ? (signs ? 9u : 7u) : builder.header_count());
            ASSERT_TRUE(builder.build(parts));
            EXPECT_EQ(builder.header_count(), signs ? 9u : 7u);
            if (!failed)
                break;
        }
    }
}

} // namespace
} // namespace whisperer::core::test
