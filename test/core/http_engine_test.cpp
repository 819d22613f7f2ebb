// What goes over the wire, what comes back, and how connections are used.
#include "core/http_engine.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <linux/sockios.h>
#include <set>
#include <sys/ioctl.h>

namespace whisperer::core::test {
namespace {

// Answers every request on every connection.
Server::Script echo(std::atomic<int> *count = nullptr) {
    return [count](Peer &peer) {
        while (peer.read_request()) {
            if (count != nullptr)
                ++*count;
            if (!peer.send(response(200, peer.body)))
                return;
        }
    };
}

// Answers the first request on a connection and closes it.
Server::Script once(std::string text) {
    return [text = std::move(text)](Peer &peer) {
        if (peer.read_request())
            peer.send(text);
    };
}

TEST(HttpEngine, SendsExactlyWhatItIsTold) {
    std::string head;
    std::string body;
    Server server([&](Peer &peer) {
        if (!peer.read_request())
            return;
        head = peer.head;
        body = peer.body;
        peer.send(response(204, "", "X-Answer: 1\r\n"));
    });
    Owner owner;
    const std::string binary("a\0b\xff\r\n", 6);
    ASSERT_TRUE(owner.post(7, server.url("127.0.0.1", "/hook?x=1"), binary,
                           {"Content-Type: application/json", "X-Empty:", "X-Blank:  ", "webhook-id: 1"}));
    ASSERT_TRUE(owner.until(owner.all(1)));
    const Outcome &outcome = owner.done[0];
    EXPECT_EQ(outcome.failure, Failure::none) << outcome.error;
    EXPECT_EQ(outcome.tag, 7u);
    EXPECT_EQ(outcome.status, 204);
    EXPECT_EQ(outcome.error, "");
    EXPECT_EQ(outcome.headers, "Content-Length: 0\r\nX-Answer: 1");
    EXPECT_GT(outcome.elapsed, 0);
    EXPECT_EQ(body, binary);
    std::vector<std::string> lines;
    for (size_t at = 0; at < head.size();) {
        const size_t end = head.find("\r\n", at);
        lines.push_back(head.substr(at, end - at));
        at = end + 2;
    }
    std::sort(lines.begin() + 1, lines.end());
    const std::string host = "Host: 127.0.0.1:" + std::to_string(server.port());
    const std::vector<std::string> expected = {"POST /hook?x=1 HTTP/1.1",
                                               "",
                                               "Content-Length: 6",
                                               "Content-Type: application/json",
                                               host,
                                               "X-Blank:",
                                               "X-Empty:",
                                               "webhook-id: 1"};
    EXPECT_EQ(lines, expected);
}

TEST(HttpEngine, SendsNoDefaultHeadersAndNoExpect) {
    std::string head;
    size_t size = 0;
    Server server([&](Peer &peer) {
        if (!peer.read_request())
            return;
        head = peer.head;
        size = peer.body.size();
        peer.send(response(200, ""));
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url(), std::string(3 << 20, 'x'), {}));
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].status, 200) << owner.done[0].error;
    EXPECT_EQ(size, size_t{3} << 20);
    for (const char *name : {"Expect", "Accept", "Content-Type", "User-Agent", "Cookie", "Transfer-Encoding"})
        EXPECT_EQ(head.find(name), std::string::npos) << head;
}

TEST(HttpEngine, TakesNoHeaderThatWouldSplitTheRequest) {
    std::atomic<int> requests{0};
    Server server(echo(&requests));
    Owner owner;
    const std::vector<std::string> bad = {
        "X-A: 1\r\nX-B: 2", "X-A: 1\nX-B: 2",    std::string("X-A: 1\0", 7),   "no colon",       ": no name",
        "X A: 1",           "Content-Length: 0", "transfer-encoding: chunked", "Host: elsewhere"};
    for (size_t i = 0; i < bad.size(); i++)
        ASSERT_TRUE(owner.post(i, server.url(), "{}", {bad[i]}));
    ASSERT_TRUE(owner.post(100, "http://127.0.0.1:1/\r\nX-A: 1"));
    ASSERT_TRUE(owner.until(owner.all(bad.size() + 1)));
    for (const Outcome &outcome : owner.done) {
        EXPECT_EQ(outcome.failure, Failure::internal) << outcome.tag;
        EXPECT_NE(outcome.error, "");
    }
    EXPECT_EQ(requests, 0);
    EXPECT_EQ(owner.ask(server.url()).status, 200); // and the engine is none the worse
}

TEST(HttpEngine, KeepsConnectionsAlive) {
    Server server(echo());
    Owner owner;
    for (int i = 0; i < 50; i++) {
        const Outcome outcome = owner.ask(server.url(), std::to_string(i));
        ASSERT_EQ(outcome.failure, Failure::none) << outcome.error;
        EXPECT_EQ(outcome.body, std::to_string(i));
    }
    EXPECT_EQ(server.connections(), 1);
    EXPECT_EQ(owner.engine->in_flight(), 0u);
    EXPECT_EQ(owner.engine->timeout_ms(owner.now()), -1);
}

TEST(HttpEngine, RunsManyAtOnce) {
    std::atomic<int> waiting{0};
    Server server([&](Peer &peer) {
        while (peer.read_request()) {
            // Nobody is answered before all are here.
            ++waiting;
            while (waiting < 500)
                std::this_thread::yield();
            peer.send(response(200, peer.body));
        }
    });
    Owner owner;
    for (uint64_t i = 0; i < 500; i++)
        ASSERT_TRUE(owner.post(i, server.url(), std::to_string(i)));
    EXPECT_EQ(owner.engine->in_flight(), 500u);
    ASSERT_TRUE(owner.until(owner.all(500)));
    std::set<uint64_t> tags;
    for (const Outcome &outcome : owner.done) {
        EXPECT_EQ(outcome.body, std::to_string(outcome.tag)) << outcome.error;
        tags.insert(outcome.tag);
    }
    EXPECT_EQ(tags.size(), 500u);
}

TEST(HttpEngine, SurvivesAConnectionThatWasClosedMeanwhile) {
    Server server([](Peer &peer) {
        if (peer.read_request())
            peer.send(response(200, "x"));
    });
    Owner owner;
    for (int i = 0; i < 20; i++)
        ASSERT_EQ(owner.ask(server.url()).status, 200) << owner.done[0].error;
    EXPECT_EQ(server.connections(), 20);
}

// RFC 9112, section 9.2: what comes while nothing was asked is no answer to what is asked next.
TEST(HttpEngine, DoesNotTakeWhatWasSaidUnaskedForAnAnswer) {
    for (bool noticed : {false, true}) {
        std::atomic<int> said{0};
        Gate answered;
        Server server([&](Peer &peer) {
            while (peer.read_request()) {
                peer.send(response(200, "asked " + peer.body));
                if (said == 0) {
                    answered.pass(); // in a packet of its own, when the first is done with
                    peer.send(response(200, "unasked"));
                    int on_the_way = 1;
                    while (ioctl(peer.fd(), SIOCOUTQ, &on_the_way) == 0 && on_the_way > 0)
                        std::this_thread::yield();
                    ++said;
                }
            }
        });
        Owner owner;
        EXPECT_EQ(owner.ask(server.url(), "1").body, "asked 1");
        answered.open();
        while (said == 0)
            std::this_thread::yield();
        if (noticed)
            owner.turn();
        const Outcome second = owner.ask(server.url(), "2");
        EXPECT_EQ(second.body, "asked 2") << second.error;
        EXPECT_EQ(server.connections(), 2);
    }
}

TEST(HttpEngine, DoesNotFollowRedirects) {
    std::atomic<int> requests{0};
    Server second(echo(&requests));
    Server first(once(response(302, "", "Location: " + second.url() + "\r\n")));
    Owner owner;
    const Outcome outcome = owner.ask(first.url());
    EXPECT_EQ(outcome.failure, Failure::none);
    EXPECT_EQ(outcome.status, 302);
    EXPECT_EQ(requests, 0);
}

TEST(HttpEngine, KeepsTheFinalResponsesHeadersOnly) {
    Server server(once("HTTP/1.1 103 Early Hints\r\nLink: x\r\nRetry-After: 1\r\n\r\n"
                       "HTTP/1.1 503 Busy\r\nRETRY-AFTER:  120 \r\nTransfer-Encoding: chunked\r\n\r\n"
                       "3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"));
    Owner owner;
    const Outcome outcome = owner.ask(server.url());
    EXPECT_EQ(outcome.failure, Failure::none) << outcome.error;
    EXPECT_EQ(outcome.status, 503);
    EXPECT_EQ(outcome.retry_after, "120");
    EXPECT_EQ(outcome.headers, "RETRY-AFTER:  120 \r\nTransfer-Encoding: chunked");
    EXPECT_EQ(outcome.body, "abc");
}

TEST(HttpEngine, ForgetsRetryAfterOfAnInterimResponse) {
    Server server(once("HTTP/1.1 103 Early\r\nX: a long field before it\r\nRetry-After: 7\r\n\r\n"
                       "HTTP/1.1 503 Busy\r\n\r\n"));
    Owner owner;
    const Outcome outcome = owner.ask(server.url());
    EXPECT_EQ(outcome.status, 503) << outcome.error;
    EXPECT_EQ(outcome.headers, "");
    EXPECT_EQ(outcome.retry_after, "");
}

TEST(HttpEngine, DoesNotDecompress) {
    Server server(once(response(200, "not gzip", "Content-Encoding: gzip\r\n")));
    Owner owner;
    const Outcome outcome = owner.ask(server.url());
    EXPECT_EQ(outcome.failure, Failure::none) << outcome.error;
    EXPECT_EQ(outcome.body, "not gzip");
}

TEST(HttpEngine, KeepsOnlySoMuchOfTheBodyAndReadsNoMore) {
    Server server([](Peer &peer) {
        if (!peer.read_request())
            return;
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        while (peer.send(std::string(1 << 16, 'x'))) // without end, until the engine closes
            continue;
    });
    Owner owner;
    owner.max_body = 1000;
    const Outcome outcome = owner.ask(server.url());
    EXPECT_EQ(outcome.failure, Failure::none) << outcome.error;
    EXPECT_EQ(outcome.status, 200);
    EXPECT_TRUE(outcome.truncated);
    EXPECT_EQ(outcome.body, std::string(1000, 'x'));
}

TEST(HttpEngine, TakesABodyOfExactlyTheLimit) {
    Server server(once(response(200, std::string(1000, 'x'))));
    Owner owner;
    owner.max_body = 1000;
    const Outcome outcome = owner.ask(server.url());
    EXPECT_FALSE(outcome.truncated);
    EXPECT_EQ(outcome.body.size(), 1000u);
}

TEST(HttpEngine, TellsACutResponseFromAWholeOne) {
    Server shorter(once("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"));
    Server chunked(once("HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"));
    Server silent(once(""));
    Server in_headers(once("HTTP/1.1 200 OK\r\nContent-Le"));
    Server before_headers_end(once("HTTP/1.1 200 OK\r\nX: y\r\n"));
    Server interim(once("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"));
    Server reset([](Peer &peer) {
        if (peer.read_request())
            peer.send("HTTP/1.1 202 OK\r\nContent-Length: 100\r\n\r\n");
        peer.reset();
    });
    Owner owner;
    for (const auto &[server, status] : {std::pair<Server *, int>{&shorter, 200},
                                         {&chunked, 500},
                                         {&silent, 0},
                                         {&in_headers, 200},
                                         {&before_headers_end, 200},
                                         {&interim, 0},
                                         {&reset, 202}}) {
        const Outcome outcome = owner.ask(server->url());
        EXPECT_EQ(outcome.failure, Failure::cut_short) << outcome.error;
        // A reset may overtake the headers.
        EXPECT_TRUE(outcome.status == status || (server == &reset && outcome.status == 0)) << outcome.status;
        EXPECT_NE(outcome.error, "");
    }
}

TEST(HttpEngine, RefusesWhatIsNotHttp) {
    Owner owner;
    for (const std::string &text :
         {std::string("SSH-2.0-OpenSSH_9.2\r\n"), std::string("hello"), std::string("HTTP/9.9 what\r\n\r\n"),
          std::string("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
          std::string("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
          "HTTP/1.1 101 Switching Protocols\r\n\r\n" + std::string(100000, 'x'),
          "HTTP/;.1 102 Processing\r\n\r\n" + std::string(100000, 'x'),
          "HTTP/1.1 200 OK\r\nX-Long: " + std::string(90000, 'x') + "\r\n\r\n",
          "HTTP/1.1 200 OK\r\nX-Long: " + std::string(300000, 'x') + "\r\n\r\n"}) {
        Server server(once(text));
        const Outcome outcome = owner.ask(server.url());
        EXPECT_EQ(outcome.failure, Failure::malformed) << text.substr(0, 40) << ": " << outcome.error;
        EXPECT_NE(outcome.error, "");
    }
}

TEST(HttpEngine, BoundsHeadersOfAllBlocksTogether) {
    Server server([](Peer &peer) {
        if (!peer.read_request())
            return;
        while (peer.send("HTTP/1.1 102 Processing\r\nX: " + std::string(1000, 'x') + "\r\n\r\n"))
            continue;
    });
    Owner owner;
    const Outcome outcome = owner.ask(server.url());
    EXPECT_EQ(outcome.failure, Failure::malformed);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_NE(outcome.error.find("64 kB"), std::string::npos) << outcome.error;
}

TEST(HttpEngine, SaysWhenNobodyListens) {
    int port;
    {
        Server server(once(""));
        port = server.port();
    }
    Owner owner;
    const Outcome outcome = owner.ask("http://127.0.0.1:" + std::to_string(port));
    EXPECT_EQ(outcome.failure, Failure::connect);
    EXPECT_NE(outcome.error.find("127.0.0.1"), std::string::npos) << outcome.error;
}

TEST(HttpEngine, IsDestroyedQuicklyWithRequestsUnderWay) {
    std::atomic<int> requests{0};
    Server server([&](Peer &peer) {
        peer.read_request();
        ++requests;
        peer.hang();
    });
    auto gate = std::make_shared<Gate>();
    Owner owner([gate](const std::string &) {
        gate->pass();
        return LookupResult{{v4(127, 0, 0, 1)}, "", false};
    });
    for (uint64_t i = 0; i < 20; i++)
        ASSERT_TRUE(owner.post(i, server.url()));
    ASSERT_TRUE(owner.post(100, server.url("hung.example")));
    ASSERT_TRUE(owner.until([&] { return requests == 20 && gate->entered == 1; }));
    const Micros before = owner.now();
    owner.engine.reset();
    EXPECT_LT(owner.now() - before, 1000000);
    gate->open();
}

TEST(HttpEngine, NewSettingsCloseIdleConnectionsAndSpareBusyOnes) {
    std::atomic<int> closed{0};
    std::atomic<int> busy{0};
    Gate gate;
    Server server([&](Peer &peer) {
        while (peer.read_request()) {
            if (peer.body == "busy") {
                ++busy;
                gate.pass();
            }
            peer.send(response(200, peer.body));
        }
        ++closed;
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url(), "busy"));
    ASSERT_TRUE(owner.until([&] { return busy == 1; }));
    ASSERT_TRUE(owner.post(2, server.url(), "idle"));
    ASSERT_TRUE(owner.until(owner.all(1)));
    ASSERT_EQ(server.connections(), 2);

    ASSERT_TRUE(owner.engine->configure(owner.settings)); // nothing new
    owner.turn();
    EXPECT_EQ(closed, 0);

    owner.policy.allowed_count = 1;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    ASSERT_TRUE(owner.until([&] { return closed == 1; }));
    gate.open();
    ASSERT_TRUE(owner.until(owner.all(2)));
    EXPECT_EQ(owner.done[1].body, "busy") << owner.done[1].error;
    ASSERT_TRUE(owner.until([&] { return closed == 2; })); // not kept for anybody else
    EXPECT_EQ(owner.ask(server.url()).status, 200);
    EXPECT_EQ(server.connections(), 3);
}

TEST(HttpEngine, SettingsThatCannotWorkAreRefused) {
    Owner owner;
    EngineSettings settings = owner.settings;
    settings.proxy = slice("not a url");
    EXPECT_FALSE(owner.engine->configure(settings));
    Server server(echo());
    EXPECT_EQ(owner.ask(server.url()).status, 200); // the old ones hold
    EXPECT_EQ(HttpEngine::create(settings, 0), nullptr);
}

} // namespace
} // namespace whisperer::core::test
