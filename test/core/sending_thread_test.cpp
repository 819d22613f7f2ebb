// Two threads on one outbox: one sends, the test reads and records, as the shell does.  Best run with
// -fsanitize=thread too.
#include "core/sending_thread.hpp"
#include "failing_memory.hpp"
#include "loopback.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <poll.h>

using namespace whisperer::core;
using namespace whisperer::core::test;

namespace {

using Ending = whisperer::core::Outcome; // the tests of the engine have one too

Micros steady() {
    auto real = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(real).count();
}
WallMicros wall() {
    auto real = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(real).count();
}

class SendingThreadTest : public testing::Test {
  protected:
    SendingThreadTest()
        : server([this](Peer &peer) {
              while (peer.read_request())
                  peer.send(response(peer.head.find("/gone") != std::string::npos  ? 410
                                     : peer.head.find("/bad") != std::string::npos ? 500
                                                                                   : 200,
                                     "ok"));
          }) {
        AddressPolicy policy = loopback_policy();
        EngineSettings settings{&policy, {}, {}, 64};
        Random random{[](void *) { return 0.5; }, nullptr};
        FlightRecorder recorder{this,
                                [](void *, const Uuid &, int64_t, bool, const CrashCount &) { return -1; },
                                [](void *, int) {}};
        recorder.recalls = [](void *self) { return static_cast<SendingThreadTest *>(self)->recalls.load(); };
        box.reset(Outbox::create(HttpEngine::create(settings, steady()), {64, 8, 1000}, random, recorder,
                                 slice("test/1")));
        thread.reset(SendingThread::start(box.get(), {steady, wall}));
    }
    ~SendingThreadTest() override { thread.reset(); }

    void subscribe(int64_t id, const char *path) { subscribe(id, server, path); }
    void subscribe(int64_t id, Server &receiver, const char *path) {
        std::string target = receiver.url("127.0.0.1", path);
        SubscriptionFields fields{};
        fields.id = id;
        fields.bucket = static_cast<int>(id);
        fields.url = slice(target);
        fields.connect_timeout = fields.response_timeout = Micros{60} * 1000 * 1000;
        fields.max_attempts = 3;
        fields.countdown = default_countdown();
        fields.sendable = true;
        ASSERT_TRUE(box->put_subscription(fields));
    }

    // As the queue reader does it: everything up to `made` exists in transaction 1.
    void read(std::map<int64_t, int> *left) {
        ASSERT_TRUE(box->set_snapshot(2, 2, nullptr, 0));
        NewRead reads[16];
        size_t count = box->plan_new(reads, 16);
        for (size_t i = 0; i < count; i++)
            for (int row = 0; row < reads[i].limit && (*left)[reads[i].subscription] > 0; row++) {
                DeliveryRow delivery{};
                const int64_t number = 100000 - (*left)[reads[i].subscription]--;
                for (int byte = 0; byte < 8; byte++) {
                    delivery.uuid.bytes[byte] = static_cast<unsigned char>(number >> (56 - 8 * byte));
                    delivery.uuid.bytes[8 + byte] =
                        static_cast<unsigned char>(number * 37 + reads[i].subscription);
                }
                delivery.uuid.bytes[15] = static_cast<unsigned char>(reads[i].subscription);
                delivery.xid = 1;
                delivery.event_type = slice("t");
                delivery.payload = slice("{}");
                ASSERT_TRUE(box->add_new(i, delivery, wall()));
            }
        RetryRead retries[16];
        box->plan_retries(retries, 16, wall());
        box->finish_reads(true);
        adopt();
    }
    void adopt() {
        Adoption adoption;
        while (box->next_adoption(&adoption, wall()))
            box->adopted(adoption);
    }

    int record() {
        size_t count = box->result_count();
        for (size_t i = 0; i < count; i++) {
            outcomes[box->result(i).outcome]++;
            box->recorded(i);
        }
        box->settle_results();
        ReceiverState state;
        bool deactivate;
        while (box->next_changed_state(&state, &deactivate, Outbox::at_once))
            deactivated += deactivate;
        return static_cast<int>(count);
    }

    // Until the thread has news, at most five seconds.
    void wait() {
        pollfd fd{thread->wait_fd(), POLLIN, 0};
        ASSERT_EQ(poll(&fd, 1, 5000), 1) << "no news";
        thread->hear();
    }

    void add(int64_t subscription, bool body_missing = false) {
        DeliveryRow row{};
        row.uuid.bytes[0] = static_cast<unsigned char>(++added);
        row.uuid.bytes[15] = static_cast<unsigned char>(added);
        row.event_type = slice("t");
        row.payload = body_missing ? Slice{} : slice("{}");
        row.body_missing = body_missing;
        ASSERT_TRUE(box->add_delivery(subscription, row));
    }

    std::atomic<unsigned> recalls{0};
    int added = 0;
    std::map<Ending, int> outcomes;
    int deactivated = 0;
    Server server;
    std::unique_ptr<Outbox> box;
    std::unique_ptr<SendingThread> thread;
};

TEST_F(SendingThreadTest, EverythingIsSentWhileTheOtherThreadReadsAndRecords) {
    ASSERT_NE(thread, nullptr);
    std::map<int64_t, int> left;
    for (int64_t id = 1; id <= 3; id++) {
        subscribe(id, "/in");
        left[id] = 700;
    }
    box->mark_all_dirty();
    int recorded = 0;
    while (recorded < 2100) {
        if (box->wants_tables(wall()))
            read(&left);
        recorded += record();
        thread->wake(true, news_tables | news_results | news_enough, 32);
        if (recorded < 2100)
            wait();
    }
    EXPECT_EQ(outcomes[Ending::delivered], 2100);
    EXPECT_EQ(box->deliveries(), 0U);
    EXPECT_EQ(box->in_flight(), 0U);
}

TEST_F(SendingThreadTest, WhatIsLearntOfReceiversMeanwhileIsKept) {
    subscribe(1, "/gone");
    subscribe(2, "/bad");
    std::map<int64_t, int> left{{1, 5}, {2, 5}};
    box->mark_all_dirty();
    // One window's worth of each: the bad one is not paused, the other one is deactivated at its first
    // answer.
    while (outcomes[Ending::retry] < 5 || deactivated == 0) {
        if (box->wants_tables(wall()))
            read(&left);
        record();
        thread->wake(true, news_tables | news_results | news_enough, 1);
        if (outcomes[Ending::retry] < 5 || deactivated == 0)
            wait();
    }
    EXPECT_EQ(deactivated, 1);
    EXPECT_EQ(outcomes[Ending::gone], 1);
}

TEST_F(SendingThreadTest, NothingStartsWhileSendingIsOff) {
    subscribe(1, "/in");
    add(1);
    thread->wake(false, news_results | news_enough, 1);
    pollfd fd{thread->wait_fd(), POLLIN, 0};
    EXPECT_EQ(poll(&fd, 1, 200), 0);
    EXPECT_EQ(box->in_flight(), 0U);
    thread->wake(true, news_results | news_enough, 1);
    wait();
    EXPECT_EQ(record(), 1);
}

TEST_F(SendingThreadTest, NoNewsIsToldThatIsNotWanted) {
    subscribe(1, "/in");
    add(1);
    thread->wake(true, 0, 1);
    while (box->result_count() == 0)
        ::poll(nullptr, 0, 1);
    pollfd fd{thread->wait_fd(), POLLIN, 0};
    EXPECT_EQ(poll(&fd, 1, 0), 0);
    thread->wake(true, news_results, 1); // what was there before is told now
    wait();
    EXPECT_EQ(record(), 1);
}

TEST_F(SendingThreadTest, NothingStartsBetweenARecallAndItsBeingHandled) {
    subscribe(1, "/in");
    recalls = 1;
    add(1);
    thread->wake(true, news_tables | news_results, 1);
    wait(); // that there is something to look at
    EXPECT_EQ(box->result_count() + box->in_flight(), 0U);
    EXPECT_TRUE(box->wants_tables(wall()));
    box->recalls_handled(1);
    thread->wake(true, news_results, 1);
    wait();
    EXPECT_EQ(record(), 1);
}

// What only the shell can do is waited for, however long it takes.
TEST_F(SendingThreadTest, WaitingForABodyCostsNothing) {
    subscribe(1, "/in");
    add(1, true);
    thread->wake(true, 0, 1);
    while (!box->wants_bodies())
        ::poll(nullptr, 0, 1);
    auto cpu = [] {
        timespec time{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return time.tv_sec * 1000 + time.tv_nsec / 1000000;
    };
    auto before = cpu();
    ::poll(nullptr, 0, 500);
    EXPECT_LT(cpu() - before, 100);
    Uuid uuid;
    ASSERT_TRUE(box->wanted_body(&uuid));
    EXPECT_FALSE(box->wants_bodies());
    box->give_body(uuid, slice("{}"), false);
    thread->wake(true, news_results, 1);
    wait();
    EXPECT_EQ(record(), 1);
}

TEST_F(SendingThreadTest, EndsAtOnceWithRequestsInFlight) {
    Server silent([](Peer &peer) {
        while (peer.read_request()) {
        }
    });
    subscribe(1, silent, "/in");
    add(1);
    thread->wake(true, news_results, 1);
    while (box->in_flight() == 0)
        ::poll(nullptr, 0, 1);
    Micros before = steady();
    thread->stop();
    EXPECT_LT(steady() - before, 5 * 1000 * 1000);
    EXPECT_EQ(box->in_flight(), 1U);
}

// Asked by the sending thread before each thing it does, of which then one allocation fails.
Micros steady_without_memory() {
    thread_local Memory failing(true);
    thread_local long passes = 0;
    plan_memory(passes++ % 17, 1);
    return steady();
}

// However often memory runs out in the sending thread, it goes on, and what was added ends.
TEST_F(SendingThreadTest, GoesOnWhereMemoryRunsOut) {
    thread.reset();
    thread.reset(SendingThread::start(box.get(), {steady_without_memory, wall}));
    ASSERT_NE(thread, nullptr);
    for (int64_t id = 1; id <= 3; id++)
        subscribe(id, id == 2 ? "/bad" : "/in");
    int recorded = 0;
    for (int round = 0; round < 20; round++) {
        for (int64_t id = 1; id <= 3; id++)
            add(id);
        while (box->deliveries() > 0) {
            thread->wake(true, news_results, 1);
            ASSERT_NO_FATAL_FAILURE(wait()); // by itself: nobody wakes the thread again
            recorded += record();
        }
    }
    EXPECT_EQ(box->deliveries(), 0U);
    EXPECT_EQ(recorded, 60);
    EXPECT_GT(outcomes[Ending::delivered], 0);
}

} // namespace
