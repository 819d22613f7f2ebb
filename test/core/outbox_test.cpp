// The outbox against a model of the tables: whatever commits in whatever order, everything is sent, nothing twice.
#include "core/outbox.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace whisperer::core::test {
namespace {

constexpr WallMicros second = 1000000;

// One row of whisperer.delivery.
struct Row {
    Uuid uuid;
    int64_t subscription;
    Xid xid;
    WallMicros due = 0; // 0: none
    WallMicros not_before = 0;
    int attempts = 0;
    bool too_large = false;
};

bool by_new(const Row *a, const Row *b) {
    return a->xid != b->xid ? a->xid < b->xid : a->uuid < b->uuid;
}
bool by_due(const Row *a, const Row *b) {
    return a->due != b->due ? a->due < b->due : a->uuid < b->uuid;
}

// The tables, their transactions, and the worker around the outbox.
class Model {
  public:
    explicit Model(const OutboxLimits &limits = {64, 8, 1000}) {
        AddressPolicy policy{};
        policy.allowed_count = 1;
        policy.allowed[0] = Network{Address{false, {127}}, 8};
        EngineSettings settings{&policy, {}, {}, 64};
        HttpEngine *engine = HttpEngine::create(settings, mono());
        Random random{[](void *) { return 0.5; }, nullptr};
        FlightRecorder recorder{this, took_off, landed};
        box.reset(Outbox::create(engine, limits, random, recorder, slice("test/1")));
    }

    void subscribe(int64_t id, const std::string &url, double retry_seconds = 0.05, int max_attempts = 5) {
        SubscriptionFields fields{};
        fields.id = id;
        fields.bucket = static_cast<int>(id % Outbox::bucket_count);
        fields.url = slice(url);
        fields.connect_timeout = fields.response_timeout = 60 * second;
        fields.max_attempts = max_attempts;
        fields.max_in_flight = 1000;
        fields.countdown = default_countdown();
        fields.countdown.kind = CountdownKind::fixed;
        fields.countdown.seconds = retry_seconds;
        fields.countdown.jitter = 0;
        fields.countdown.schedule = nullptr;
        fields.countdown.schedule_count = 0;
        fields.sendable = true;
        ASSERT_TRUE(box->put_subscription(fields));
        urls[id] = url;
    }

    Xid begin() {
        running.insert(next_xid);
        return next_xid++;
    }

    Uuid insert(Xid xid, int64_t subscription) {
        Row row{make_uuid7(wall(), generator()), subscription, xid};
        written[xid].push_back(row);
        return row.uuid;
    }

    void commit(Xid xid) {
        running.erase(xid);
        for (const Row &row : written[xid]) {
            table[row.uuid] = row;
            committed++;
            box->mark_bucket_dirty(static_cast<int>(row.subscription % Outbox::bucket_count));
        }
        written.erase(xid);
    }

    void abort(Xid xid) {
        running.erase(xid);
        written.erase(xid);
    }

    // One turn of the worker's loop. `wait`: until something happens or a timer fires.
    void turn(bool wait = true) {
        if (wait) {
            pollfd fd{box->engine()->wait_fd(), POLLIN, 0};
            int timeout = box->wants_read(wall()) || box->wants_bodies() ? 0 : box->timeout_ms(mono(), wall());
            poll(&fd, 1, std::min(timeout < 0 ? 20 : timeout, 20));
        }
        box->step(mono(), wall());
        record();
        if (box->wants_read(wall()) || box->wants_bodies())
            read();
        box->start(mono(), wall());
    }

    bool until(const std::function<bool()> &reached) {
        auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        while (!reached()) {
            if (std::chrono::steady_clock::now() > deadline)
                return false;
            turn();
        }
        return true;
    }

    bool empty() const { return table.empty(); }

    std::unique_ptr<Outbox> box;
    std::map<Uuid, Row> table;
    std::map<Uuid, core::Outcome> history;
    std::map<Uuid, int> launches;
    std::map<int64_t, std::string> urls;
    std::set<Uuid> locked; // by some session
    std::mt19937_64 generator{42};
    size_t committed = 0;
    size_t most_in_memory = 0;
    bool reads_fail = false;
    int alone = 0, most_alone = 0; // suspects in flight
    std::map<int, bool> flights;

  private:
    static Micros mono() {
        return std::chrono::duration_cast<std::chrono::microseconds>(
                   std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }
    static WallMicros wall() { return mono(); }

    static int took_off(void *context, const Uuid &uuid, int64_t, bool alone, const CrashCount &) {
        auto *model = static_cast<Model *>(context);
        model->launches[uuid]++;
        model->alone += alone;
        model->most_alone = std::max(model->most_alone, model->alone);
        model->flights[model->next_flight] = alone;
        return model->next_flight++;
    }
    static void landed(void *context, int slot) {
        auto *model = static_cast<Model *>(context);
        model->alone -= model->flights[slot];
        model->flights.erase(slot);
    }

    void record() {
        for (size_t i = 0; i < box->result_count(); i++) {
            AttemptResult result = box->result(i);
            if (locked.count(result.uuid) > 0) {
                box->postpone(i, wall() + 1000);
                continue;
            }
            auto row = table.find(result.uuid);
            if (row != table.end()) {
                if (result.outcome == core::Outcome::retry) {
                    row->second.due = result.due;
                    row->second.attempts = result.attempts;
                } else {
                    EXPECT_EQ(history.count(result.uuid), 0u) << "settled twice";
                    history[result.uuid] = result.outcome;
                    table.erase(row);
                }
            }
            box->recorded(i);
        }
        box->settle_results();
    }

    static DeliveryRow view(const Row &row) {
        DeliveryRow result{};
        result.uuid = row.uuid;
        result.xid = row.xid;
        result.due = row.due;
        result.not_before = row.not_before;
        result.attempts = row.attempts;
        result.event_type = slice("t");
        result.payload = row.too_large ? Slice{nullptr, 0} : slice("{}");
        result.body_missing = row.too_large;
        return result;
    }

    std::vector<const Row *> rows_of(int64_t subscription, bool (*order)(const Row *, const Row *)) const {
        std::vector<const Row *> rows;
        for (const auto &entry : table)
            if (entry.second.subscription == subscription)
                rows.push_back(&entry.second);
        std::sort(rows.begin(), rows.end(), order);
        return rows;
    }

    void read() {
        std::vector<Xid> list(running.begin(), running.end());
        Xid xmin = list.empty() ? next_xid : list.front();
        ASSERT_TRUE(box->set_snapshot(xmin, next_xid, list.data(), list.size()));
        bool ok = !reads_fail;
        NewRead news[64];
        size_t count = box->plan_new(news, 64);
        for (size_t i = 0; i < count; i++) {
            int given = 0;
            for (const Row *row : rows_of(news[i].subscription, by_new)) {
                bool after = row->xid > news[i].lo || (row->xid == news[i].lo && news[i].after < row->uuid);
                if (row->due == 0 && after && row->xid < news[i].hi && given++ < news[i].limit) {
                    ASSERT_TRUE(box->add_new(i, view(*row), wall()));
                }
            }
        }
        RetryRead retries[64];
        count = box->plan_retries(retries, 64, wall());
        for (size_t i = 0; i < count; i++) {
            int given = 0;
            for (const Row *row : rows_of(retries[i].subscription, by_due)) {
                bool after =
                    row->due > retries[i].due || (row->due == retries[i].due && retries[i].after < row->uuid);
                if (row->due != 0 && after && given++ < retries[i].limit) {
                    ASSERT_TRUE(box->add_retry(i, view(*row), wall()));
                }
            }
        }
        box->finish_reads(ok);
        Adoption adoption;
        while (box->next_adoption(&adoption)) {
            table[adoption.uuid].due = adoption.due;
            table[adoption.uuid].not_before = 0;
            box->adopted(adoption);
        }
        Uuid wanted;
        while (box->wanted_body(&wanted))
            box->give_body(wanted, slice("{\"large\": true}"), false);
    }

    Xid next_xid = 100;
    std::set<Xid> running;
    std::map<Xid, std::vector<Row>> written;
    int next_flight = 0;
};

// Answers with the status in the path, e.g. /500; /flaky fails every other time.
Server::Script by_path(std::atomic<int> *flaky) {
    return [flaky](Peer &peer) {
        while (peer.read_request()) {
            int status = 200;
            if (peer.head.rfind("POST /flaky", 0) == 0)
                status = (*flaky)++ % 2 == 0 ? 500 : 200;
            else if (peer.head.rfind("POST /500", 0) == 0)
                status = 500;
            else if (peer.head.rfind("POST /410", 0) == 0)
                status = 410;
            if (!peer.send(response(status, "")))
                return;
        }
    };
}

class OutboxTest : public ::testing::Test {
  protected:
    std::atomic<int> flaky{0};
    Server server{by_path(&flaky)};
    Model model;
    std::string url(const std::string &path) { return server.url("127.0.0.1", path); }
};

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

TEST_F(OutboxTest, HangingReceiversLeaveRoomForUnknownOnes) {
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
TEST_F(OutboxTest, HangingReceiversTakeNothingFromGoodOnes) {
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
