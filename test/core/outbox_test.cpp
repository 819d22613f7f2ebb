// The outbox against a model of the tables: whatever commits in whatever order, everything is sent, nothing
// twice.
#include "outbox_model.hpp"

namespace whisperer::core::test {
namespace {

TEST_F(OutboxTest, EverythingThatCommitsIsDeliveredOnce) {
    for (int64_t id = 1; id <= 5; id++)
        model.subscribe(id, url("/200"));
    std::vector<Xid> open;
    for (int i = 0; i < 2000; i++) {
        switch (model.generator() % 4) {
        case 0:
            open.push_back(model.begin());
            break;
        case 1:
        case 2:
            if (!open.empty())
                for (int n = static_cast<int>(model.generator() % 5); n > 0; n--)
                    model.insert(open[model.generator() % open.size()],
                                 1 + static_cast<int64_t>(model.generator() % 5));
            break;
        default:
            if (!open.empty()) {
                size_t which = model.generator() % open.size();
                if (model.generator() % 5 == 0)
                    model.abort(open[which]);
                else
                    model.commit(open[which]);
                open.erase(open.begin() + static_cast<long>(which));
            }
        }
        if (i % 3 == 0)
            model.turn(false);
    }
    for (Xid xid : open)
        model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.history.size(), model.committed);
    for (const auto &launch : model.launches)
        EXPECT_EQ(launch.second, 1);
    EXPECT_EQ(model.launches.size(), model.committed);
}

TEST_F(OutboxTest, ABacklogLargerThanAnyWindowDrains) {
    model.subscribe(1, url("/200"));
    for (int t = 0; t < 30; t++) { // more transactions than are asked for at once, others running between
        Xid xid = model.begin();
        model.begin();
        for (int i = 0; i < 100; i++)
            model.insert(xid, 1);
        model.commit(xid);
    }
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.history.size(), 3000u);
    EXPECT_EQ(model.launches.size(), 3000u);
}

TEST_F(OutboxTest, FailuresAreRetriedUntilTheyAreGivenUp) {
    model.subscribe(1, url("/flaky"), 0.01, 10);
    model.subscribe(2, url("/500"), 0.0, 3);
    Xid xid = model.begin();
    std::vector<Uuid> given_up;
    for (int i = 0; i < 20; i++) {
        model.insert(xid, 1);
        given_up.push_back(model.insert(xid, 2));
    }
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    for (const Uuid &uuid : given_up) {
        EXPECT_EQ(model.history[uuid], core::Outcome::failed);
        EXPECT_EQ(model.launches[uuid], 3);
    }
    EXPECT_EQ(std::count_if(model.history.begin(), model.history.end(),
                            [](const auto &entry) { return entry.second == core::Outcome::delivered; }),
              20);
}

TEST_F(OutboxTest, WhatCannotBeSignedFailsAndHoldsUpNobody) {
    model.subscribe(1, url("/200"), 0.0, 2, "whsec_not base64");
    model.subscribe(2, url("/200"), 0.0, 3, "good");
    Xid xid = model.begin();
    Uuid bad = model.insert(xid, 1);
    for (int i = 0; i < 20; i++)
        model.insert(xid, 2);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.history[bad], core::Outcome::failed);
    EXPECT_EQ(model.errors[bad], "the request could not be signed: the secret, or OpenSSL's HMAC");
    EXPECT_EQ(std::count_if(model.history.begin(), model.history.end(),
                            [](const auto &entry) { return entry.second == core::Outcome::delivered; }),
              20);
    EXPECT_EQ(model.launches[bad], 2);
}

TEST_F(OutboxTest, WhatIsMoreThanCanBeLookedAtIsReadAgain) {
    model.subscribe(1, url("/200"));
    Xid first = model.begin();
    model.insert(first, 1);
    model.commit(first);
    ASSERT_TRUE(
        model.until([&] { return model.empty(); })); // known to be good, so that there is reading ahead
    model.box->allow_sending(false);
    Xid xid = model.begin();
    for (int i = 0; i < 29; i++)
        model.insert(xid, 1);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.box->deliveries() >= 2; }));
    model.box->mark_bucket_dirty(1);
    Uuid uuid{};
    EXPECT_EQ(model.box->unsent(&uuid, 1), 1u);
    EXPECT_FALSE(model.box->has_unsent_to_check());
    EXPECT_EQ(model.box->deliveries(), 1u) << "nothing is left that was not looked at";
    model.box->allow_sending(true);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.history.size(), 30u);
}

TEST_F(OutboxTest, ReadsThatFailAreReadAgain) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    for (int i = 0; i < 50; i++)
        model.insert(xid, 1);
    model.commit(xid);
    model.reads_fail = true;
    for (int i = 0; i < 5; i++)
        model.turn(false);
    EXPECT_TRUE(model.launches.empty());
    model.reads_fail = false;
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches.size(), 50u);
}

TEST_F(OutboxTest, LockedRowsHoldUpNobodyAndAreRecordedLater) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid held = model.insert(xid, 1);
    for (int i = 0; i < 200; i++)
        model.insert(xid, 1);
    model.locked.insert(held);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.table.size() == 1; }));
    EXPECT_EQ(model.launches[held], 1);
    model.locked.clear();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches[held], 1);
}

TEST_F(OutboxTest, GoneDeactivatesAndTheRestWaits) {
    model.subscribe(1, url("/410"));
    Xid xid = model.begin();
    for (int i = 0; i < 100; i++)
        model.insert(xid, 1);
    model.commit(xid);
    ReceiverState state{};
    bool deactivate = false;
    ASSERT_TRUE(model.until([&] { return model.box->next_changed_state(&state, &deactivate, 0); }));
    EXPECT_TRUE(deactivate);
    EXPECT_EQ(state.last_status, 410);
    for (int i = 0; i < 50; i++)
        model.turn(false);
    EXPECT_LE(model.launches.size(), 2u); // the first window
    size_t waiting = model.table.size();
    EXPECT_GE(waiting, 98u);
    model.subscribe(1, url("/200")); // resumed
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, PausedThenResumedIsReadFromTheBeginning) {
    model.subscribe(1, url("/200"));
    SubscriptionFields paused{};
    std::string target = url("/200");
    paused.id = 1;
    paused.bucket = 1;
    paused.url = slice(target);
    paused.max_attempts = 1;
    paused.max_in_flight = 1;
    paused.countdown = default_countdown();
    ASSERT_TRUE(model.box->put_subscription(paused));
    Xid xid = model.begin();
    for (int i = 0; i < 30; i++)
        model.insert(xid, 1);
    model.commit(xid);
    for (int i = 0; i < 10; i++)
        model.turn(false);
    EXPECT_TRUE(model.launches.empty());
    model.subscribe(1, target);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, WhatWaitsIsAdoptedAndSentWhenItIsDue) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid uuid = model.insert(xid, 1);
    model.commit(xid);
    model.table[uuid].not_before = std::chrono::duration_cast<std::chrono::microseconds>(
                                       std::chrono::steady_clock::now().time_since_epoch())
                                       .count() +
                                   second / 5;
    ASSERT_TRUE(model.until([&] { return model.table[uuid].due != 0; }));
    EXPECT_TRUE(model.launches.empty());
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, LargeBodiesAreLoadedBeforeTheyAreSent) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid uuid = model.insert(xid, 1);
    model.insert(xid, 1);
    model.commit(xid);
    model.table[uuid].too_large = true;
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches[uuid], 1);
}

// The shell took the order for a body, and its transaction failed: a lock that was not to be had, say.
TEST_F(OutboxTest, ABodyThatCouldNotBeLoadedIsAskedForAgain) {
    model.subscribe(1, url("/200"));
    model.table_too_large = true;
    Xid xid = model.begin();
    Uuid uuid = model.insert(xid, 1);
    model.insert(xid, 1);
    model.commit(xid);
    model.turn(false);
    Uuid wanted;
    ASSERT_TRUE(model.box->wanted_body(&wanted));
    model.box->read_all_again();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches[uuid], 1);
}

// A restore loads the tables one after the other: what is not there yet comes before the countdown has ended.
TEST_F(OutboxTest, APayloadThatIsMissingIsLookedForAgain) {
    model.subscribe(1, url("/200"), 0.0, 5);
    model.table_too_large = true;
    Xid xid = model.begin();
    Uuid lost = model.insert(xid, 1);
    Uuid other = model.insert(xid, 1);
    model.bodies_lost = {lost};
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.errors.count(lost) > 0; }));
    EXPECT_EQ(model.errors[lost], "the payload is missing from whisperer.event");
    model.bodies_lost.clear();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.history[lost], core::Outcome::delivered);
    EXPECT_GT(model.launches[lost], 1);
    EXPECT_EQ(model.launches[other], 1);
}

// And a suspect without one does not keep the next from its turn.
TEST_F(OutboxTest, APayloadThatNeverComesFailsItsDeliveryAlone) {
    model.subscribe(1, url("/200"), 0.0, 2);
    model.table_too_large = true;
    Xid xid = model.begin();
    Uuid lost = model.insert(xid, 1);
    Uuid suspect = model.insert(xid, 1);
    Uuid next = model.insert(xid, 1);
    model.bodies_lost = {lost, suspect};
    for (const Uuid &uuid : {suspect, next})
        ASSERT_TRUE(model.box->add_suspect(uuid, {1, 1}));
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.history[lost], core::Outcome::failed);
    EXPECT_EQ(model.launches[lost], 2);
    EXPECT_EQ(model.history[suspect], core::Outcome::failed);
    EXPECT_EQ(model.history[next], core::Outcome::delivered);
}

TEST_F(OutboxTest, SuspectsGoOneAtATimeAndAreGivenUpAfterThreeCrashes) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    std::vector<Uuid> suspects;
    for (int i = 0; i < 4; i++)
        suspects.push_back(model.insert(xid, 1));
    Uuid poison = model.insert(xid, 1);
    Uuid innocent = model.insert(xid, 1);
    for (int i = 0; i < 50; i++)
        model.insert(xid, 1);
    for (const Uuid &uuid : suspects)
        ASSERT_TRUE(model.box->add_suspect(uuid, {1, 1}));
    ASSERT_TRUE(model.box->add_suspect(poison, {3, 3}));
    ASSERT_TRUE(model.box->add_suspect(innocent, {1, 0}));
    model.commit(xid);
    // One crash among others makes no suspect: it does not wait for its turn.
    ASSERT_TRUE(model.until([&] { return model.history.count(innocent) > 0; }));
    EXPECT_EQ(model.most_alone, 0);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.most_alone, 1);
    EXPECT_EQ(model.history[poison], core::Outcome::failed);
    EXPECT_EQ(model.launches.count(poison), 0u);
    for (const Uuid &uuid : suspects)
        EXPECT_EQ(model.history[uuid], core::Outcome::delivered);
}

// A session has sent what the worker had read ahead, and handed it back. The worker reads the row before it
// hears of that.
TEST_F(OutboxTest, WhatSomebodyElseHasSentMeanwhileIsNotForgotten) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    for (int i = 0; i < 50; i++) // a good receiver, for whom is read ahead
        model.insert(xid, 1);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    model.box->allow_sending(false);
    xid = model.begin();
    Uuid uuid = model.insert(xid, 1);
    model.commit(xid);
    while (model.box->deliveries() < 1)
        model.turn(false);
    xid = model.begin();
    model.table[uuid].xid = xid;
    model.table[uuid].attempts = 1;
    model.commit(xid);
    model.box->mark_bucket_dirty(1); // for some other reason
    model.turn(false);
    Uuid unsent[10];
    int attempts[10];
    size_t count = model.box->unsent(unsent, 10, attempts);
    ASSERT_EQ(count, 1u);
    if (attempts[0] != 1)
        model.box->drop_unsent(uuid);
    model.box->allow_sending(true);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches[uuid], 1);
}

// Suspects wait longest for their turn, so they are what is most likely cancelled before it.
TEST_F(OutboxTest, ASuspectCancelledBeforeItsTurnIsNotSent) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid cancelled = model.insert(xid, 1);
    Uuid other = model.insert(xid, 1);
    for (const Uuid &uuid : {cancelled, other})
        ASSERT_TRUE(model.box->add_suspect(uuid, {1, 1}));
    model.commit(xid);
    model.box->allow_sending(false);
    while (model.box->deliveries() < 2)
        model.turn(false);
    model.table.erase(cancelled);
    model.box->mark_bucket_dirty(1);
    Uuid unsent[10];
    size_t count = model.box->unsent(unsent, 10);
    EXPECT_EQ(count, 2u);
    for (size_t i = 0; i < count; i++)
        if (model.table.count(unsent[i]) == 0)
            model.box->drop_unsent(unsent[i]);
    model.box->allow_sending(true);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches.count(cancelled), 0u);
    EXPECT_EQ(model.launches[other], 1);
}

// A crash while it waits to be recorded would be taken for its own if the next one caused it.
TEST_F(OutboxTest, ASuspectWaitsUntilTheLastOneIsRecorded) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    for (int i = 0; i < 3; i++)
        ASSERT_TRUE(model.box->add_suspect(model.insert(xid, 1), {1, 1}));
    model.commit(xid);
    model.records = false;
    ASSERT_TRUE(model.until([&] { return model.box->result_count() > 0; }));
    for (int turn = 0; turn < 20; turn++)
        model.turn();
    EXPECT_EQ(model.launches.size(), 1u);
    model.records = true;
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.most_alone, 1);
}

// But not for one whose row somebody holds.
TEST_F(OutboxTest, ASuspectWhoseRowIsLockedHoldsUpNoOther) {
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid locked = model.insert(xid, 1);
    ASSERT_TRUE(model.box->add_suspect(locked, {1, 1}));
    for (int i = 0; i < 2; i++)
        ASSERT_TRUE(model.box->add_suspect(model.insert(xid, 1), {1, 1}));
    model.commit(xid);
    model.locked.insert(locked);
    ASSERT_TRUE(model.until([&] { return model.history.size() == 2; }));
    model.locked.clear();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, WhatIsCancelledBeforeItIsSentIsNotSent) {
    Server silent([](Peer &peer) { peer.hang(); });
    model.subscribe(1, silent.url("127.0.0.1", "/hang"));
    Xid xid = model.begin();
    for (int i = 0; i < 10; i++)
        model.insert(xid, 1);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.box->in_flight() > 0; }));
    size_t sent = model.launches.size();
    model.box->mark_bucket_dirty(1);
    Uuid unsent[100];
    size_t count = model.box->unsent(unsent, 100);
    for (size_t i = 0; i < count; i++)
        model.box->drop_unsent(unsent[i]);
    model.box->remove_subscription(1);
    for (int i = 0; i < 10; i++)
        model.turn(false);
    EXPECT_EQ(model.launches.size(), sent);
}

} // namespace
} // namespace whisperer::core::test
