// What the outbox may cost: memory, time, and what one subscription may take from the others.
#include "outbox_model.hpp"

namespace whisperer::core::test {
namespace {

class OutboxBounds : public OutboxTest {
  protected:
    void raise(int64_t subscription, int deliveries) {
        Xid xid = model.begin();
        for (int i = 0; i < deliveries; i++)
            model.insert(xid, subscription);
        model.commit(xid);
    }

    // Makes the window of a good receiver as large as it may be.
    void open_window(int64_t subscription) {
        raise(subscription, 100);
        ASSERT_TRUE(model.until([&] { return model.empty(); }));
    }

    size_t sent_to(int64_t subscription) {
        return static_cast<size_t>(
            std::count_if(model.launches.begin(), model.launches.end(), [&](const auto &launch) {
                auto row = model.table.find(launch.first);
                return row != model.table.end() && row->second.subscription == subscription;
            }));
    }
};

// What was behind a delivery that is gone by the time its body is wanted is sent, although nothing else
// happens.
TEST_F(OutboxBounds, ADeliveryGoneBeforeItsBodyIsLoadedHoldsUpNothing) {
    model.subscribe(1, url("/200"));
    open_window(1);
    Xid xid = model.begin();
    Uuid gone = model.insert(xid, 1);
    for (int i = 0; i < 60; i++)
        gone = std::min(gone, model.insert(xid, 1));
    model.commit(xid);
    // The first one, so that nothing is in flight whose end would start the rest.
    model.table[gone].too_large = true;
    model.body_gone = gone; // nobody says so: no bucket becomes dirty
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches.count(gone), 0u);
}

// Somebody has all rows of one subscription locked, by an open unsubscribe() for instance. It goes on for a
// while, and then waits; the others never do.
TEST_F(OutboxBounds, LockedRowsOfOneSubscriptionStopNoOther) {
    model.subscribe(1, url("/200"));
    model.subscribe(2, url("/200"));
    open_window(1);
    Xid xid = model.begin();
    for (int i = 0; i < 6000; i++)
        model.locked.insert(model.insert(xid, 1));
    model.commit(xid);
    // As far as it goes: until nothing is in flight, and nothing new starts.
    ASSERT_TRUE(model.until([&] { return sent_to(1) > 0; }));
    size_t before;
    do {
        before = sent_to(1);
        for (int i = 0; i < 20; i++)
            model.turn();
    } while (sent_to(1) != before);
    EXPECT_LE(before, 200u);
    raise(2, 100);
    ASSERT_TRUE(model.until([&] { return sent_to(2) == 0 && model.table.size() == 6000; }));
    model.locked.clear();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    for (const auto &launch : model.launches)
        EXPECT_EQ(launch.second, 1);
}

// Somebody has some rows of each of many subscriptions locked. Those wait in the end, the others never do,
// and what is remembered is bounded.
TEST_F(OutboxBounds, LockedRowsOfManySubscriptionsStopNoOther) {
    constexpr int64_t many = 400;
    model.subscribe(1, url("/200"));
    for (int64_t id = 2; id < 2 + many; id++)
        model.subscribe(id, url("/200"));
    Xid xid = model.begin();
    for (int64_t id = 2; id < 2 + many; id++)
        for (int i = 0; i < 20; i++)
            model.locked.insert(model.insert(xid, id));
    model.commit(xid);
    size_t before;
    do {
        before = model.launches.size();
        for (int i = 0; i < 20; i++)
            model.turn();
    } while (model.launches.size() != before);
    EXPECT_LE(before, 4096u + many);
    raise(1, 100);
    ASSERT_TRUE(model.until([&] { return model.history.size() == 100; }));
    model.locked.clear();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    for (const auto &launch : model.launches)
        EXPECT_EQ(launch.second, 1);
}

// Nothing is to be done for what may not be sent now: no timer, no body, no suspect makes the worker turn
// round and round.
TEST_F(OutboxBounds, WhatMayNotBeSentWaitsForNothing) {
    model.subscribe(1, url("/500"), 0.01, 100);
    raise(1, 1);
    ASSERT_TRUE(model.until(
        [&] { return model.table.begin()->second.attempts == 1 && model.box->in_flight() == 0; }));
    model.subscribe(2, url("/200"));
    Xid xid = model.begin();
    model.table_too_large = true;
    model.insert(xid, 2);
    model.commit(xid);
    model.turn(false);
    ASSERT_TRUE(model.box->wants_bodies());
    Micros now = Model::mono();
    EXPECT_EQ(model.box->timeout_ms(now + second, now + second), 0);
    EXPECT_EQ(model.box->timeout_ms(now + second, now + second, false), -1);
}

// With thousands of failing receivers, asking which state is to be saved costs a look at each at most.
TEST_F(OutboxBounds, ChangedStatesOfManyReceiversAreFoundQuickly) {
    constexpr int64_t many = 20000;
    for (int64_t id = 1; id <= many; id++)
        model.subscribe(id, url("/500"));
    ReceiverState failed{};
    failed.consecutive_failures = 1;
    bool deactivate;
    ReceiverState state{};
    auto all_fail = [&] {
        for (failed.subscription = 1; failed.subscription <= many; failed.subscription++)
            model.box->learn_elsewhere(failed, false);
    };
    all_fail();
    int64_t saved = 0;
    while (model.box->next_changed_state(&state, &deactivate, 10 * second))
        saved++;
    EXPECT_EQ(saved, many);
    all_fail();
    auto begin = std::chrono::steady_clock::now();
    EXPECT_FALSE(model.box->next_changed_state(&state, &deactivate, 10 * second + 1)); // not within a second
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(100));
    EXPECT_TRUE(model.box->next_changed_state(&state, &deactivate, 12 * second));
}

// A session could not deactivate what answered it with 410, since somebody had the subscription locked: the
// worker does, and sends nothing meanwhile.
TEST_F(OutboxBounds, WhatIsGoneForSomebodyElseIsNotSentTo) {
    model.subscribe(1, url("/200"));
    model.box->learn_elsewhere(ReceiverState{1, 1, 0, 410, slice("gone")}, true);
    raise(1, 3);
    for (int i = 0; i < 10; i++)
        model.turn(false);
    EXPECT_TRUE(model.launches.empty());
    ReceiverState state{};
    bool deactivate = false;
    ASSERT_TRUE(model.box->next_changed_state(&state, &deactivate, 0));
    EXPECT_TRUE(deactivate);
    model.subscribe(1, url("/200")); // resumed
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
}

// Subscriptions whose rows lie in many ranges of transactions do not keep the others from being read.
TEST_F(OutboxBounds, EverySubscriptionHasItsTurnAtReading) {
    constexpr int64_t many = 100;
    for (int64_t id = 1; id <= many; id++) {
        model.subscribe(id, url("/200"));
        open_window(id);
    }
    std::vector<Xid> xids;
    for (int i = 0; i < 20; i++) { // every other transaction runs on: many ranges
        xids.push_back(model.begin());
        model.begin();
    }
    for (Xid xid : xids)
        for (int64_t id = 1; id <= many; id++)
            for (int i = 0; i < 2; i++)
                model.insert(xid, id);
    for (Xid xid : xids)
        model.commit(xid);
    std::map<int64_t, int> planned;
    std::vector<Xid> running = model.running_xids();
    for (int round = 0; round < 10; round++) {
        ASSERT_TRUE(model.box->set_snapshot(running.front(), model.next(), running.data(), running.size()));
        NewRead reads[512];
        size_t count = model.box->plan_new(reads, 512);
        for (size_t i = 0; i < count; i++)
            planned[reads[i].subscription]++;
        model.box->finish_reads(false); // so that all of them stay hungry
    }
    EXPECT_EQ(planned.size(), static_cast<size_t>(many));
}

// However many subscriptions have however much to send, in however many transactions, one round of reading is
// bounded.
TEST_F(OutboxBounds, OneRoundOfReadingIsBounded) {
    model.box->set_limits({64, 32, 1000});
    for (int64_t id = 1; id <= 100; id++) {
        model.subscribe(id, url("/200"));
        open_window(id);
    }
    std::vector<Xid> xids;
    for (int i = 0; i < 8; i++) {
        xids.push_back(model.begin());
        model.begin();
    }
    for (Xid xid : xids) {
        for (int64_t id = 1; id <= 100; id++)
            model.insert(xid, id);
        model.commit(xid);
    }
    std::vector<Xid> running = model.running_xids();
    ASSERT_TRUE(model.box->set_snapshot(running.front(), model.next(), running.data(), running.size()));
    NewRead reads[512];
    size_t count = model.box->plan_new(reads, 512);
    ASSERT_GT(count, 0u);
    int rows = 0;
    for (size_t i = 0; i < count; i++)
        rows += reads[i].limit;
    EXPECT_LE(rows, 16384);
    model.box->finish_reads(false);
}

} // namespace
} // namespace whisperer::core::test
