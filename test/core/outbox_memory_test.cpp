// Where memory runs out, the outbox loses nothing, leaves nobody waiting for ever, and says what it could not
// do.
#include "core/sending_thread.hpp"

#include "failing_memory.hpp"
#include "outbox_model.hpp"

namespace whisperer::core::test {
namespace {

// A delivery that was not added is not there, and one that was is sent once.
TEST(OutboxOutOfMemory, ADeliveryIsAddedOrNot) {
    std::atomic<int> requests{0};
    Server server([&](Peer &peer) {
        while (peer.read_request()) {
            ++requests;
            peer.send(response(200, ""));
        }
    });
    for (int number = 0;; number++) {
        Model model;
        model.subscribe(1, server.url());
        const std::string type(100, 't'), payload(100, '1');
        DeliveryRow row{};
        row.uuid = make_uuid7(1, 1);
        row.event_type = slice(type);
        row.payload = slice(payload);
        plan_memory(number, 1);
        const bool added = model.box->add_delivery(1, row);
        const bool failed = memory_failures() > 0;
        EXPECT_EQ(added, !failed);
        EXPECT_EQ(model.box->deliveries(), added ? 1u : 0u);
        plan_memory(0, 0);
        requests = 0;
        ASSERT_TRUE(model.box->add_delivery(1, row));
        EXPECT_TRUE(model.until([&] { return model.box->deliveries() == 0; }));
        EXPECT_EQ(requests, 1);
        if (!failed)
            break;
    }
}

// What was read and finds no room is read again; and what found room is sent, though nothing more is read
// before half of it has gone.
TEST_F(OutboxTest, RowsThatFindNoRoomAreReadAgain) {
    for (int number = 0;; number++) {
        Model many;
        auto raise = [&](int deliveries) {
            const Xid xid = many.begin();
            for (int i = 0; i < deliveries; i++)
                many.insert(xid, 1);
            many.commit(xid);
        };
        many.subscribe(1, url("/200"));
        raise(100);
        ASSERT_TRUE(many.until([&] { return many.empty(); })); // a good one: 128 at once are read from now on
        bool failed = false, first = true;
        many.before_finish = [&] { plan_memory(number, first ? 1 : 0); };
        many.after_finish = [&] {
            failed = failed || memory_failures() > 0;
            first = false;
        };
        raise(200);
        ASSERT_TRUE(many.until([&] { return many.empty(); })) << many.table.size() << " are stuck";
        for (const auto &launch : many.launches)
            EXPECT_EQ(launch.second, 1);
        if (!failed) {
            EXPECT_GT(number, 0);
            break;
        }
    }
}

// Its subscription has nothing else by which it would come to mind.
TEST_F(OutboxTest, ABodyThatFindsNoRoomIsAskedForAgain) {
    for (int number = 0;; number++) {
        Model one;
        one.subscribe(1, url("/200"));
        one.table_too_large = true;
        const Xid xid = one.begin();
        one.insert(xid, 1);
        one.commit(xid);
        plan_memory(number, 1);
        ASSERT_TRUE(one.until([&] { return one.empty(); })) << "after allocation " << number;
        const bool failed = memory_failures() > 0;
        plan_memory(0, 0);
        if (!failed)
            break;
    }
}

// Suspects remain suspects: one that has crashed the worker three times is not sent because memory ran out
// when it was read.
TEST(OutboxOutOfMemory, APoisonIsNotForgotten) {
    for (int number = 0;; number++) {
        Model model;
        model.subscribe(1, "http://127.0.0.1:9/");
        DeliveryRow row{};
        row.uuid = make_uuid7(1, 1);
        row.event_type = slice("t");
        row.payload = slice("{}");
        plan_memory(number, 1);
        (void)model.succeeds([&] { return model.box->add_suspect(row.uuid, {3, 3}); });
        (void)model.succeeds([&] { return model.box->add_delivery(1, row); });
        const Micros now = Model::mono();
        model.box->start(now, now);
        for (int turn = 1; turn < 4 && model.box->result_count() == 0; turn++)
            model.box->start(now + turn * 2 * second, now + turn * 2 * second);
        const bool failed = memory_failures() > 0;
        plan_memory(0, 0);
        ASSERT_EQ(model.box->result_count(), 1u) << "allocation " << number;
        const AttemptResult result = model.box->result(0);
        EXPECT_EQ(result.outcome, core::Outcome::failed);
        EXPECT_EQ(result.error.view().substr(0, 9), "given up:");
        EXPECT_TRUE(model.launches.empty());
        if (!failed)
            break;
    }
}

// A subscription is the old one or the new one: the new URL never gets the old secret, nor the other way
// round.
TEST(OutboxOutOfMemory, ASubscriptionIsChangedAsAWhole) {
    std::mutex mutex;
    std::set<std::string> seen; // path and Authorization
    Server server([&](Peer &peer) {
        while (peer.read_request()) {
            const size_t at = peer.head.find("Authorization: ");
            {
                const std::lock_guard<std::mutex> lock(mutex);
                seen.insert(peer.head.substr(5, peer.head.find(' ', 5) - 5) + " " +
                            (at == std::string::npos
                                 ? ""
                                 : peer.head.substr(at + 15, peer.head.find('\r', at) - at - 15)));
            }
            peer.send(response(200, ""));
        }
    });
    auto put = [&](Model &model, const std::string &name) {
        const std::string url = server.url("127.0.0.1", "/a-long-path-of-the-" + name);
        const std::string authorization = "the-secret-of-the-" + name;
        SubscriptionFields fields{};
        fields.id = 1;
        fields.url = slice(url);
        fields.authorization = slice(authorization);
        fields.connect_timeout = fields.response_timeout = 60 * second;
        fields.max_attempts = 1;
        fields.countdown = default_countdown();
        fields.sendable = true;
        return model.box->put_subscription(fields);
    };
    for (int number = 0;; number++) {
        Model model;
        plan_memory(0, 0);
        ASSERT_TRUE(put(model, "old-receiver"));
        plan_memory(number, 1);
        const bool changed = put(model, "new-receiver-whose-name-is-longer");
        const bool failed = memory_failures() > 0;
        EXPECT_EQ(changed, !failed);
        plan_memory(0, 0);
        DeliveryRow row{};
        row.uuid = make_uuid7(1, 1);
        row.event_type = slice("t");
        row.payload = slice("{}");
        seen.clear();
        ASSERT_TRUE(model.box->add_delivery(1, row));
        ASSERT_TRUE(model.until([&] { return model.box->deliveries() == 0; }));
        const std::string name = changed ? "new-receiver-whose-name-is-longer" : "old-receiver";
        EXPECT_EQ(seen, std::set<std::string>{"/a-long-path-of-the-" + name + " the-secret-of-the-" + name});
        if (!failed)
            break;
    }
}

// What a receiver taught holds also where its words find no room: it is not to be sent to.
TEST(OutboxOutOfMemory, WhatAReceiverSaidHolds) {
    Server server([](Peer &peer) {
        while (peer.read_request())
            peer.send(peer.head.find("/gone") != std::string::npos
                          ? response(410, "")
                          : response(429, "", "Retry-After: 3600\r\n"));
    });
    for (const char *path : {"/gone", "/later"})
        for (int number = 0;; number++) {
            Model model;
            model.subscribe(1, server.url("127.0.0.1", path));
            DeliveryRow row{};
            row.uuid = make_uuid7(1, 1);
            row.event_type = slice("t");
            row.payload = slice("{}");
            ASSERT_TRUE(model.box->add_delivery(1, row));
            const Micros now = Model::mono();
            model.box->start(now, now);
            plan_memory(number, 1);
            for (int turn = 0; turn < 3000 && model.box->result_count() == 0; turn++) {
                pollfd fd{model.box->engine()->wait_fd(), POLLIN, 0};
                poll(&fd, 1, 10);
                model.box->step(Model::mono(), Model::mono());
            }
            ASSERT_EQ(model.box->result_count(), 1u);
            const bool failed = memory_failures() > 0;
            plan_memory(0, 0);
            const std::string error(model.box->result(0).error.view());
            if (error.rfind("the receiver answered", 0) == 0) { // else the answer itself found no room
                EXPECT_FALSE(model.box->accepts(1, Model::mono())) << path << ", allocation " << number;
                ReceiverState state{};
                bool deactivate = false;
                ASSERT_TRUE(model.box->next_changed_state(&state, &deactivate, Outbox::at_once));
                EXPECT_EQ(deactivate, std::string(path) == "/gone");
                EXPECT_EQ(state.paused_until > 0, !deactivate);
            } else
                EXPECT_TRUE(failed) << error;
            if (!failed)
                break;
        }
}

// The whole of it: reading, large bodies, tokens, signatures, retries, a receiver that is gone, deliveries
// that are to wait. Whichever allocation fails, everything settles, without anybody looking everywhere again;
// and what is delivered arrived once, unless its answer was lost.
class OutboxScenario : public ::testing::Test {
  protected:
    OutboxScenario()
        : server([this](Peer &peer) {
              while (peer.read_request()) {
                  int status = 200;
                  std::string body;
                  if (peer.head.rfind("POST /token", 0) == 0)
                      body = R"({"key": "a-token-that-is-longer-than-a-short-string"})";
                  else if (peer.head.rfind("POST /410", 0) == 0)
                      status = 410;
                  else if (peer.head.rfind("POST /500", 0) == 0)
                      status = 500;
                  else
                      ++arrived;
                  peer.send(response(status, body));
              }
          }) {}

    // Returns whether any allocation failed.
    bool run(long passes, long fails) {
        arrived = 0;
        Model model;
        plan_memory(passes, fails);
        const auto url = [&](const char *path) { return server.url("127.0.0.1", path); };
        model.subscribe(1, url("/200"), 0.001, 9, "a secret that is longer than a short string");
        model.subscribe(2, url("/500"), 0.001, 2);
        model.subscribe(3, url("/410"));
        model.subscribe(4, url("/200"), 0.001, 9, nullptr, true);
        const Xid xid = model.begin();
        for (int i = 0; i < 3; i++)
            for (int64_t id : {1, 2, 4})
                model.insert(xid, id);
        model.table_too_large = true;
        model.insert(xid, 1);
        model.insert(xid, 4);
        const Uuid gone = model.insert(xid, 3);
        model.commit(xid);
        for (auto &entry : model.table)
            if (entry.second.subscription == 1 && !entry.second.too_large) {
                entry.second.not_before = Model::mono() + 2000;
                break;
            }
        EXPECT_TRUE(model.until([&] { return model.empty(); }))
            << model.table.size() << " deliveries are stuck after allocation " << passes;
        const long failed = memory_failures();
        plan_memory(0, 0);
        EXPECT_EQ(model.box->deliveries(), 0u);
        EXPECT_EQ(model.box->in_flight(), 0u);
        EXPECT_TRUE(model.flights.empty());
        EXPECT_EQ(model.history[gone], core::Outcome::gone);
        EXPECT_GE(arrived, 8);
        EXPECT_LE(arrived, 8 + failed);
        EXPECT_EQ(std::count_if(model.history.begin(), model.history.end(),
                                [](const auto &settled) { return settled.second == core::Outcome::failed; }),
                  3);
        return failed > 0;
    }

    std::atomic<int> arrived{0};
    Server server;
};

TEST_F(OutboxScenario, EachAllocationFailsInTurn) {
    long number = 0;
    while (run(number, 1) && !HasFailure())
        number++;
    EXPECT_GT(number, 100);
}

// Not one but many in a row.
TEST_F(OutboxScenario, MemoryIsGoneForAWhile) {
    for (long number = 0; run(number, 40) && !HasFailure(); number += 7) {
    }
}

TEST(OutboxOutOfMemory, ItIsMadeOrNot) {
    const AddressPolicy policy = loopback_policy();
    EngineSettings settings{&policy, {}, {}, 64};
    const FlightRecorder recorder{nullptr,
                                  [](void *, const Uuid &, int64_t, bool, const CrashCount &) { return -1; },
                                  [](void *, int) {}};
    const Random random{[](void *) { return 0.5; }, nullptr};
    for (int number = 0;; number++) {
        HttpEngine *engine = HttpEngine::create(settings, 1);
        ASSERT_NE(engine, nullptr);
        plan_memory(number, 1);
        std::unique_ptr<Outbox> box;
        {
            const Memory failing(true);
            box.reset(
                Outbox::create(engine, {64, 8, 1000}, random, recorder, slice("a user agent, long enough")));
        }
        const bool failed = memory_failures() > 0;
        EXPECT_EQ(box == nullptr, failed);
        if (!failed) {
            const int files = open_files();
            plan_memory(0, 1);
            const Memory failing(true);
            EXPECT_EQ(SendingThread::start(box.get(), {nullptr, nullptr}), nullptr);
            EXPECT_EQ(open_files(), files);
            break;
        }
    }
}

} // namespace
} // namespace whisperer::core::test
