// Tokens within the outbox: one request for many deliveries, an hour's life, and what a refusal does.
#include "core/outbox.hpp"
#include "loopback.hpp"

#include <gtest/gtest.h>

using namespace whisperer::core;
using namespace whisperer::core::test;

namespace {

constexpr Micros second = 1000 * 1000;

class OutboxTokenTest : public testing::Test {
  protected:
    OutboxTokenTest()
        : server([this](Peer &peer) {
              while (peer.read_request()) {
                  bool login = peer.head.find("POST /login") == 0;
                  size_t at = peer.head.find("Authorization: ");
                  std::lock_guard<std::mutex> lock(mutex);
                  if (login) {
                      logins++;
                      peer.send(response(200, "{\"key\": \"" + std::to_string(logins.load()) + "\"}"));
                  } else {
                      std::string sent = at == std::string::npos ? "" : peer.head.substr(at + 15);
                      sent = sent.substr(0, sent.find('\r'));
                      tokens.push_back(sent);
                      peer.send(response(sent == refused ? 401 : 200, ""));
                  }
              }
          }) {
        AddressPolicy policy = loopback_policy();
        EngineSettings settings{&policy, {}, {}, 64};
        Random random{[](void *) { return 0.5; }, nullptr};
        FlightRecorder recorder{nullptr,
                                [](void *, const Uuid &, int64_t, bool, const CrashCount &) { return -1; },
                                [](void *, int) {}};
        box.reset(Outbox::create(HttpEngine::create(settings, now()), {64, 8, 1000}, random, recorder,
                                 slice("test/1")));
        std::string target = server.url("127.0.0.1", "/in"), login = server.url("127.0.0.1", "/login");
        SubscriptionFields fields{};
        fields.id = 1;
        fields.url = slice(target);
        fields.token.url = slice(login);
        fields.token.username_field = slice("u");
        fields.token.password_field = slice("p");
        fields.token.token_key = slice("key");
        fields.token.header_format = slice("Token {}");
        fields.connect_timeout = fields.response_timeout = 60 * second;
        fields.max_attempts = 5;
        fields.max_in_flight = 8;
        fields.countdown = default_countdown();
        fields.sendable = true;
        EXPECT_TRUE(box->put_subscription(fields));
    }

    Micros now() const {
        auto real = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::microseconds>(real).count() + ahead;
    }

    // Sends so many deliveries and returns how many had an outcome of that kind.
    int send(int count, whisperer::core::Outcome outcome) {
        for (int i = 0; i < count; i++) {
            DeliveryRow row{};
            row.uuid.bytes[0] = static_cast<unsigned char>(++made);
            row.uuid.bytes[15] = static_cast<unsigned char>(made);
            row.event_type = slice("t");
            row.payload = slice("{}");
            EXPECT_TRUE(box->add_delivery(1, row));
        }
        int found = 0;
        for (int turns = 0; box->deliveries() > 0 && turns < 10000; turns++) {
            box->start(now(), now());
            pollfd fd{box->engine()->wait_fd(), POLLIN, 0};
            poll(&fd, 1, 10);
            box->step(now(), now());
            size_t results = box->result_count();
            for (size_t i = 0; i < results; i++) {
                found += box->result(i).outcome == outcome;
                EXPECT_EQ(box->result(i).attempts, 1);
                box->recorded(i);
            }
            box->settle_results();
        }
        EXPECT_EQ(box->deliveries(), 0u);
        return found;
    }

    std::mutex mutex;
    std::atomic<int> logins{0};
    std::vector<std::string> tokens;
    std::string refused = "none";
    Micros ahead = 0;
    int made = 0;
    Server server;
    std::unique_ptr<Outbox> box;
};

TEST_F(OutboxTokenTest, OneTokenServesForAnHour) {
    EXPECT_EQ(send(20, whisperer::core::Outcome::delivered), 20);
    EXPECT_EQ(logins, 1);
    ahead = token_lifetime - 60 * second;
    EXPECT_EQ(send(3, whisperer::core::Outcome::delivered), 3);
    EXPECT_EQ(logins, 1);
    ahead = token_lifetime + second;
    EXPECT_EQ(send(5, whisperer::core::Outcome::delivered), 5);
    EXPECT_EQ(logins, 2);
    EXPECT_EQ(tokens.size(), 28u);
    EXPECT_EQ(tokens.front(), "Token 1");
    EXPECT_EQ(tokens.back(), "Token 2");
}

TEST_F(OutboxTokenTest, ARefusedTokenIsDroppedOnce) {
    EXPECT_EQ(send(10, whisperer::core::Outcome::delivered), 10); // the window is open now
    {
        std::lock_guard<std::mutex> lock(mutex);
        refused = "Token 1";
    }
    // Several are sent with it before the first 401 is back; they all fail, and there is one new token.
    int failed = send(8, whisperer::core::Outcome::retry);
    EXPECT_GE(failed, 1);
    EXPECT_LE(logins, 2);
    EXPECT_EQ(send(4, whisperer::core::Outcome::delivered), 4);
    EXPECT_EQ(logins, 2);
}

} // namespace
