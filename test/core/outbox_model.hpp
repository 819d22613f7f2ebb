// A model of the tables and of the worker's loop around the outbox, for its tests.
#pragma once

#include "core/outbox.hpp"

#include "failing_memory.hpp"
#include "loopback.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace whisperer::core::test {

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

inline bool by_new(const Row *a, const Row *b) {
    return a->xid != b->xid ? a->xid < b->xid : a->uuid < b->uuid;
}
inline bool by_due(const Row *a, const Row *b) {
    return a->due != b->due ? a->due < b->due : a->uuid < b->uuid;
}

// The outbox; during each call to it memory may fail.
class TriedOutbox {
  public:
    class Call {
      public:
        explicit Call(Outbox *box) : box_(box) {}
        Outbox *operator->() const { return box_; }

      private:
        Outbox *box_;
        Memory failing_{true};
    };
    Call operator->() const { return Call(box_.get()); }
    void reset(Outbox *box) { box_.reset(box); }

  private:
    std::unique_ptr<Outbox> box_;
};

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

    void subscribe(int64_t id, const std::string &url, double retry_seconds = 0.05, int max_attempts = 5,
                   const char *secret = nullptr, bool token = false) {
        SubscriptionFields fields{};
        fields.id = id;
        fields.owner = owner;
        fields.bucket = static_cast<int>(id % Outbox::bucket_count);
        fields.url = slice(url);
        fields.connect_timeout = fields.response_timeout = 60 * second;
        fields.max_attempts = max_attempts;
        fields.has_secret = secret != nullptr;
        fields.secret = slice(secret == nullptr ? "" : secret);
        fields.max_in_flight = 0;
        fields.countdown = default_countdown();
        fields.countdown.kind = CountdownKind::fixed;
        fields.countdown.seconds = retry_seconds;
        fields.countdown.jitter = 0;
        fields.countdown.schedule = nullptr;
        fields.countdown.schedule_count = 0;
        fields.has_callback = secret != nullptr;
        fields.sendable = true;
        std::string login = url.substr(0, url.rfind('/')) + "/token";
        if (token)
            fields.token = TokenFields{slice(login),  slice("u"),   slice("name"),    slice("p"),
                                       slice("word"), slice("key"), slice("Token {}")};
        ASSERT_TRUE(succeeds([&] { return box->put_subscription(fields); }));
        urls[id] = url;
    }

    Xid begin() {
        running.insert(next_xid);
        return next_xid++;
    }

    Uuid insert(Xid xid, int64_t subscription) {
        Row row{make_uuid7(wall(), generator()), subscription, xid};
        row.too_large = table_too_large;
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
            int timeout =
                box->wants_read(wall()) || box->wants_bodies() ? 0 : box->timeout_ms(mono(), wall());
            poll(&fd, 1, std::min(timeout < 0 ? 20 : timeout, 20));
        }
        box->step(mono(), wall());
        if (records)
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

    // What fails for want of memory is done again, as the worker does it.
    template <typename Call> bool succeeds(Call call) {
        for (long failures = memory_failures();; failures = memory_failures()) {
            if (call())
                return true;
            if (memory_failures() == failures)
                return false;
        }
    }

    bool empty() const { return table.empty(); }

    uint32_t owner = 10; // of what is subscribed next
    WallMicros clock_shift = 0;
    TriedOutbox box;
    std::map<Uuid, Row> table;
    std::map<Uuid, core::Outcome> history;
    std::map<Uuid, std::string> errors; // of the last attempt
    std::map<Uuid, int> launches;
    std::map<int64_t, std::string> urls;
    std::set<Uuid> locked; // by some session
    int postponements = 0;
    std::mt19937_64 generator{42};
    size_t committed = 0;
    size_t most_in_memory = 0;
    bool reads_fail = false;
    bool records = true;           // what has ended
    bool table_too_large = false;  // all bodies are loaded just before they are sent
    bool bodies_wait = false;      // none is loaded
    Uuid body_gone{};              // a delivery that disappears before its body is loaded
    std::set<Uuid> bodies_lost;    // deliveries that are there without their payloads
    int alone = 0, most_alone = 0; // suspects in flight
    std::map<int, bool> flights;
    std::function<void()> before_finish = [] {}, after_finish = [] {}; // of reads

    static Micros mono() {
        return std::chrono::duration_cast<std::chrono::microseconds>(
                   std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }
    WallMicros wall() const { return mono() + clock_shift; }
    std::vector<Xid> running_xids() const { return {running.begin(), running.end()}; }
    Xid next() const { return next_xid; }

  private:
    static int took_off(void *context, const Uuid &uuid, int64_t, bool alone, const CrashCount &) {
        const Memory own(false);
        auto *model = static_cast<Model *>(context);
        model->launches[uuid]++;
        model->alone += alone;
        model->most_alone = std::max(model->most_alone, model->alone);
        model->flights[model->next_flight] = alone;
        return model->next_flight++;
    }
    static void landed(void *context, int slot) {
        const Memory own(false);
        auto *model = static_cast<Model *>(context);
        model->alone -= model->flights[slot];
        model->flights.erase(slot);
    }

    void record() {
        for (size_t i = 0; i < box->result_count(); i++) {
            AttemptResult result = box->result(i);
            errors[result.uuid] = std::string(result.error.view());
            if (locked.count(result.uuid) > 0) {
                box->postpone(i, wall() + 1000);
                postponements++;
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
        ASSERT_TRUE(succeeds([&] { return box->set_snapshot(xmin, next_xid, list.data(), list.size()); }));
        bool ok = !reads_fail;
        const long failures = memory_failures();
        NewRead news[64];
        size_t count = box->plan_new(news, 64);
        for (size_t i = 0; i < count; i++) {
            int given = 0;
            for (const Row *row : rows_of(news[i].subscription, by_new)) {
                bool after = row->xid > news[i].lo || (row->xid == news[i].lo && news[i].after < row->uuid);
                if (row->due == 0 && after && row->xid < news[i].hi && given++ < news[i].limit) {
                    ok = box->add_new(i, view(*row), wall()) && ok;
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
                    ok = box->add_retry(i, view(*row), wall()) && ok;
                }
            }
        }
        ASSERT_TRUE(ok || reads_fail || memory_failures() > failures);
        before_finish();
        box->finish_reads(ok);
        after_finish();
        Adoption adoption;
        while (box->next_adoption(&adoption, wall())) {
            table[adoption.uuid].due = adoption.due;
            table[adoption.uuid].not_before = 0;
            box->adopted(adoption);
        }
        Uuid wanted;
        while (!bodies_wait && box->wanted_body(&wanted)) {
            if (wanted == body_gone) {
                table.erase(wanted);
                box->body_gone(wanted);
            } else if (bodies_lost.count(wanted) > 0)
                box->body_lost(wanted);
            else
                box->give_body(wanted, slice(R"({"large": "longer than a short string"})"), false);
        }
    }

    Xid next_xid = 100;
    std::set<Xid> running;
    std::map<Xid, std::vector<Row>> written;
    int next_flight = 0;
};

// Answers with the status in the path, e.g. /500; /flaky fails every other time.
inline Server::Script by_path(std::atomic<int> *flaky) {
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

} // namespace whisperer::core::test
