// Nobody stops the others: what receivers that hang, fail, or have large bodies leave to the rest.
#include "outbox_model.hpp"

#include <condition_variable>
#include <mutex>

namespace whisperer::core::test {
namespace {

class OutboxFairness : public OutboxTest {
  protected:
    // Answers, but not while it is told to hang.
    std::mutex mutex;
    std::condition_variable changed;
    bool hangs = false;
    Server moody{[this](Peer &peer) {
        while (peer.read_request()) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                changed.wait(lock, [this] { return !hangs; });
            }
            if (!peer.send(response(200, "")))
                return;
        }
    }};

    // Takes as long as a network does.
    Server slow{[](Peer &peer) {
        while (peer.read_request()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            if (!peer.send(response(200, "")))
                return;
        }
    }};

    void hang(bool now) {
        const std::lock_guard<std::mutex> lock(mutex);
        hangs = now;
        changed.notify_all();
    }

    void TearDown() override { hang(false); }

    std::vector<Uuid> raise(int64_t subscription, int deliveries) {
        std::vector<Uuid> uuids;
        Xid xid = model.begin();
        for (int i = 0; i < deliveries; i++)
            uuids.push_back(model.insert(xid, subscription));
        model.commit(xid);
        return uuids;
    }

    // Subscriptions whose receiver answers, with the largest window, and then hangs with all it has.
    void let_hang(int64_t first, int64_t last) {
        for (int64_t id = first; id <= last; id++) {
            model.subscribe(id, moody.url("127.0.0.1", "/moody"));
            raise(id, 100);
        }
        ASSERT_TRUE(model.until([&] { return model.empty(); }));
        hang(true);
        for (int64_t id = first; id <= last; id++)
            raise(id, 100);
        size_t before;
        do { // until nothing more is started
            before = model.launches.size();
            for (int i = 0; i < 5; i++)
                model.turn();
        } while (model.launches.size() != before);
    }

    bool delivered(const std::vector<Uuid> &uuids) {
        return std::all_of(uuids.begin(), uuids.end(), [&](const Uuid &uuid) {
            auto place = model.history.find(uuid);
            return place != model.history.end() && place->second == core::Outcome::delivered;
        });
    }
};

TEST_F(OutboxFairness, HangingReceiversLeaveRoomForUnknownOnes) {
    Server silent([](Peer &peer) { peer.hang(); });
    for (int64_t id = 100; id < 140; id++)
        model.subscribe(id, silent.url("127.0.0.1", "/hang"));
    for (int64_t id = 1; id <= 10; id++)
        model.subscribe(id, url("/200"));
    Xid xid = model.begin();
    for (int64_t id = 100; id < 140; id++)
        for (int i = 0; i < 3; i++)
            model.insert(xid, id);
    for (int64_t id = 1; id <= 10; id++)
        for (int i = 0; i < 50; i++)
            model.insert(xid, id);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.history.size() == 500; }));
    EXPECT_LE(model.box->in_flight(), 40u);
}

// However many hang, those known to be good have slots that the others cannot take.
TEST_F(OutboxFairness, HangingReceiversTakeNothingFromGoodOnes) {
    Server silent([](Peer &peer) { peer.hang(); });
    for (int64_t id = 1; id <= 10; id++)
        model.subscribe(id, url("/200"));
    Xid xid = model.begin();
    for (int64_t id = 1; id <= 10; id++)
        model.insert(xid, id);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));

    for (int64_t id = 100; id < 400; id++)
        model.subscribe(id, silent.url("127.0.0.1", "/hang"));
    xid = model.begin();
    for (int64_t id = 100; id < 400; id++)
        model.insert(xid, id);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.box->in_flight() == 48; })); // three quarters of 64
    xid = model.begin();
    for (int64_t id = 1; id <= 10; id++)
        for (int i = 0; i < 50; i++)
            model.insert(xid, id);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.history.size() == 510; }));
    EXPECT_EQ(model.box->in_flight(), 48u);
}

// They had answered until then, so that nobody knew.
TEST_F(OutboxFairness, ManyThatBeginToHangLeaveSlots) {
    model.subscribe(1, url("/200"));
    auto first = raise(1, 50);
    ASSERT_TRUE(model.until([&] { return delivered(first); }));
    let_hang(100, 119); // which may have 160 in flight, of 64
    auto other = raise(1, 50);
    EXPECT_TRUE(model.until([&] { return delivered(other); })) << model.box->in_flight() << " in flight";
    model.subscribe(2, url("/200"));
    auto unknown = raise(2, 50);
    EXPECT_TRUE(model.until([&] { return delivered(unknown); })) << model.box->in_flight() << " in flight";
}

TEST_F(OutboxFairness, OneThatMayHaveAllLeavesSlots) {
    model.box->set_limits({64, 64, 1000});
    model.subscribe(1, url("/200"));
    let_hang(100, 100);
    EXPECT_GE(model.box->in_flight(), 48u) << "it gets what others do not need";
    auto other = raise(1, 50);
    EXPECT_TRUE(model.until([&] { return delivered(other); })) << model.box->in_flight() << " in flight";
}

// Each of them takes one slot only, and together they would take all.
TEST_F(OutboxFairness, TheManyOfOneOwnerLeaveSlotsToAnother) {
    model.subscribe(1, url("/200"));
    model.owner = 11;
    model.subscribe(2, url("/200"));
    model.owner = 12;
    let_hang(100, 199);
    model.turn();
    EXPECT_GE(model.box->in_flight(), 50u);
    EXPECT_LT(model.box->in_flight(), 64u);
    auto other = raise(1, 50), another = raise(2, 50);
    EXPECT_TRUE(model.until([&] { return delivered(other) && delivered(another); }))
        << model.box->in_flight() << " in flight";
    // They go to another owner, who had nothing in flight; and no one is forgotten when it was its turn.
    model.owner = 11;
    for (int64_t id = 100; id < 200; id++)
        model.subscribe(id, moody.url("127.0.0.1", "/moody"));
    other = raise(1, 50);
    EXPECT_TRUE(model.until([&] { return delivered(other); })) << model.box->in_flight() << " in flight";
    hang(false);
    EXPECT_TRUE(model.until([&] { return model.empty(); })) << model.table.size() << " are left";
}

// Who waits for slots gets them when there are some, whoever has left them.
TEST_F(OutboxFairness, WhoWaitedWhileAllWasBusyGoesOnAfterIt) {
    for (int64_t id = 200; id < 210; id++) {
        model.subscribe(id, slow.url("127.0.0.1", "/slow"));
        raise(id, 30);
    }
    model.owner = 12;
    model.subscribe(1, url("/200"));
    raise(1, 30);
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    let_hang(100, 103); // half of all slots
    ASSERT_GE(model.box->in_flight(), 30u);
    for (int64_t id = 200; id < 210; id++)
        raise(id, 50);
    ASSERT_TRUE(model.until([&] { return model.box->in_flight() >= 56; }));
    auto waiting = raise(1, 30);
    EXPECT_TRUE(model.until([&] { return delivered(waiting); })) << model.box->in_flight() << " in flight";
}

TEST_F(OutboxFairness, TheOnlyOneHasEverySlot) {
    model.box->set_limits({64, 64, 1000});
    let_hang(100, 100);
    EXPECT_EQ(model.box->in_flight(), 64u);
}

// What fails at once takes its slot for a moment only, and does not wait for those that hang.
TEST_F(OutboxFairness, OneThatFailsDoesNotWaitForThoseThatHang) {
    model.subscribe(1, url("/flaky"), 0.01, 100);
    let_hang(100, 102); // more than a quarter
    ASSERT_GE(model.box->in_flight(), 16u);
    for (Micros known = Model::mono() + 3 * second / 2; Model::mono() < known;)
        model.turn(); // that they hang
    auto other = raise(1, 20);
    EXPECT_TRUE(model.until([&] { return delivered(other); })) << model.box->in_flight() << " in flight";
}

// A receiver that nobody knows does not wait until those that are good have nothing more to send.
TEST_F(OutboxFairness, ASlotForThoseNotKnownYetHoweverBusyTheGoodOnesAre) {
    for (int64_t id = 100; id < 120; id++) {
        model.subscribe(id, slow.url("127.0.0.1", "/slow"));
        raise(id, 20);
    }
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    for (int64_t id = 100; id < 120; id++)
        raise(id, 200);
    ASSERT_TRUE(model.until([&] { return model.box->in_flight() >= 56; }));
    model.subscribe(1, url("/200"));
    model.subscribe(2, url("/flaky"), 0.01, 100);
    auto unknown = raise(1, 5);
    auto failing = raise(2, 5);
    ASSERT_TRUE(model.until([&] { return delivered(unknown) && delivered(failing); }));
    EXPECT_GE(model.table.size(), 1000u) << "of theirs most are still waiting";
}

// However many wait for their large bodies, what is small goes.
TEST_F(OutboxFairness, LargeBodiesHoldUpNoSmallOnes) {
    for (int64_t id = 1; id <= 20; id++) {
        model.subscribe(id, url("/200"));
        raise(id, 10);
    }
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    model.table_too_large = true;
    std::vector<std::vector<Uuid>> large;
    for (int64_t id = 2; id <= 20; id++)
        large.push_back(raise(id, 10));
    model.table_too_large = false;
    model.bodies_wait = true;
    ASSERT_TRUE(model.until([&] { return model.box->wants_bodies(); }));
    auto small = raise(1, 100);
    EXPECT_TRUE(model.until([&] { return delivered(small); }));
    model.box->remove_subscription(20); // one of those in the line
    model.bodies_wait = false;
    large.pop_back();
    EXPECT_TRUE(model.until([&] {
        return std::all_of(large.begin(), large.end(), [&](const auto &l) { return delivered(l); });
    }));
}

// A reading, in a transaction of the worker's, for each of many that fail would take minutes.
TEST_F(OutboxFairness, SeveralOfThoseThatFailAreReadAtOnce) {
    model.subscribe(1, url("/500"), 3600.0);
    auto all = raise(1, 200);
    int reads = 0;
    model.after_finish = [&reads] { reads++; };
    ASSERT_TRUE(model.until([&] { return model.launches.size() == all.size(); }));
    EXPECT_LT(reads, 100);
}

// However many new ones there are.
TEST_F(OutboxFairness, RetriesThatAreDueHaveTheirTurn) {
    model.subscribe(1, url("/500"), 0.02, 1000);
    auto first = raise(1, 1);
    ASSERT_TRUE(model.until([&] { return model.table[first[0]].due != 0; }));
    auto many = raise(1, 1000);
    ASSERT_TRUE(model.until([&] { return model.launches.size() == many.size() + 1; }));
    EXPECT_GE(model.launches[first[0]], 2);
}

} // namespace
} // namespace whisperer::core::test
