// Names, and the way through a proxy.
#include "core/http_engine.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <langinfo.h>
#include <unistd.h>

namespace whisperer::core::test {
namespace {

constexpr Micros second = 1000000;

// ---- names

TEST(HttpNames, AreLookedUpOnceForMany) {
    Server server(answer_all());
    auto lookups = std::make_shared<std::atomic<int>>(0);
    Owner owner([lookups](const std::string &name) {
        ++*lookups;
        return name == "hook.example" ? LookupResult{{v4(127, 0, 0, 1)}, "", false}
                                      : LookupResult{{}, "unexpected " + name, false};
    });
    for (uint64_t i = 0; i < 100; i++)
        ASSERT_TRUE(owner.post(i, server.url("hook.example")));
    ASSERT_TRUE(owner.until(owner.all(100)));
    for (const Outcome &outcome : owner.done)
        EXPECT_EQ(outcome.status, 200) << outcome.error;
    EXPECT_EQ(*lookups, 1);
}

TEST(HttpNames, KeepTheirSpellings) {
    Server server(answer_all());
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    for (const char *host : {"HOOK.Example", "hook.example.", "localhost", "a_b.example"})
        EXPECT_EQ(owner.ask(server.url(host)).status, 200) << host << ": " << owner.done[0].error;
    for (const char *literal : {"127.1", "0x7f000001", "2130706433", "127.0.0.2"}) {
        const Outcome outcome = owner.ask(server.url(literal));
        // 127.0.0.2 is no address the server listens on; the others are spellings of one it does.
        EXPECT_EQ(outcome.failure, std::string(literal) == "127.0.0.2" ? Failure::connect : Failure::none)
            << literal << ": " << outcome.error;
    }
}

// The process's locale is the database's.
class HttpInternationalNames : public testing::Test {
  protected:
    ~HttpInternationalNames() override { setlocale(LC_CTYPE, "C"); }

    // The name that is looked up for a host, or what is wrong with it.
    std::string looked_up(const std::string &host) {
        Owner owner([](const std::string &name) { return LookupResult{{}, name, false}; });
        const std::string error = owner.ask("http://" + host + "/").error;
        const std::string before = "failed: ";
        const size_t at = error.find(before);
        return at == std::string::npos ? error : error.substr(at + before.size());
    }
    void expect_conversion() {
        const std::string name = looked_up("b\u00fccher.example");
        if (name.find("give it in its ASCII form (xn--...)") == std::string::npos) { // libcurl before 7.88
            EXPECT_EQ(name, "xn--bcher-kva.example");
        }
    }
};

TEST_F(HttpInternationalNames, AreLookedUpInAscii) {
    for (const char *locale : {"C.UTF-8", "C"}) {
        ASSERT_NE(setlocale(LC_CTYPE, locale), nullptr);
        expect_conversion();
    }
}

TEST_F(HttpInternationalNames, AreThemselvesInLatin1) {
    const std::string directory = testing::TempDir() + "whisperer-latin1-" + std::to_string(getpid());
    std::filesystem::create_directory(directory);
    const std::string make = "localedef -c -i POSIX -f ISO-8859-1 '" + directory + "/latin1' >/dev/null 2>&1";
    static_cast<void>(system(make.c_str())); // its warnings make it fail
    setenv("LOCPATH", directory.c_str(), 1);
    const bool made = setlocale(LC_CTYPE, "latin1") != nullptr;
    unsetenv("LOCPATH");
    std::filesystem::remove_all(directory);
    if (!made)
        GTEST_SKIP() << "localedef makes no locale here";
    ASSERT_STREQ(nl_langinfo(CODESET), "ISO-8859-1");
    expect_conversion();
    EXPECT_STREQ(nl_langinfo(CODESET), "ISO-8859-1"); // and the locale is what it was
}

// Wide characters become what means something in a URL, or to libcurl.
TEST_F(HttpInternationalNames, BecomeNothingElse) {
    for (const char *host : {"a\uff0fb.example", "a\uff20b.example", "a\uff1ab.example", "\uff0da.example",
                             "\uff0a", "a\uff03.example"})
        EXPECT_NE(looked_up(host).find("give it in its ASCII form (xn--...)"), std::string::npos)
            << host << ": " << looked_up(host);
}

TEST_F(HttpInternationalNames, ArriveInAscii) {
    std::string head;
    Server server([&](Peer &peer) {
        peer.read_request();
        head = peer.head;
        peer.send(response(200, ""));
    });
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const Outcome outcome = owner.ask(server.url("b\u00fccher.example", "/x/\u00fc?a=\u00fc#b"));
    if (outcome.error.find("give it in its ASCII form (xn--...)") != std::string::npos)
        GTEST_SKIP() << "libcurl before 7.88";
    EXPECT_EQ(outcome.status, 200) << outcome.error;
    const std::string port = std::to_string(server.port());
    EXPECT_NE(head.find("\r\nHost: xn--bcher-kva.example:" + port + "\r\n"), std::string::npos) << head;
    EXPECT_EQ(head.find("POST /x/%C3%BC?a=%C3%BC HTTP/1.1\r\n"), 0u) << head;
}

// "-name" would make libcurl forget what it was told of that name.
TEST(HttpNames, OneCannotSpoilAnother) {
    Server server([](Peer &peer) {
        if (peer.read_request())
            peer.send(response(200, "", "Connection: close\r\n"));
    });
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    EXPECT_EQ(owner.ask(server.url("a.example")).status, 200) << owner.done[0].error;
    EXPECT_EQ(owner.ask(server.url("-a.example")).error, "the URL cannot be used");
    EXPECT_EQ(owner.ask(server.url("a.example")).status, 200) << owner.done[0].error;
}

TEST(HttpNames, FailureNamesTheName) {
    Owner owner([](const std::string &) { return LookupResult{{}, "Name or service not known", false}; });
    const Outcome outcome = owner.ask("http://nobody.example/");
    EXPECT_EQ(outcome.failure, Failure::name_lookup);
    EXPECT_EQ(outcome.error, "name lookup of \"nobody.example\" failed: Name or service not known");
}

TEST(HttpNames, Ipv6OnlyWorks) {
    Server server(answer_all(), true);
    Owner owner(fixed({v6_loopback()}));
    EXPECT_EQ(owner.ask(server.url("six.example")).status, 200) << owner.done[0].error;
    EXPECT_EQ(owner.ask(server.url("[::1]")).status, 200) << owner.done[0].error;
}

TEST(HttpNames, OneWorkingAddressOfSeveralIsEnough) {
    Server server(answer_all());
    Owner owner(fixed({v6_loopback(), v4(127, 0, 0, 9), v4(127, 0, 0, 1)}));
    EXPECT_EQ(owner.ask(server.url("several.example")).status, 200) << owner.done[0].error;
}

// 127.0.0.2 at a server's port: a listener whose queue is full answers no further SYN.
class SilentAddress {
  public:
    explicit SilentAddress(int port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(0x7f000002);
        address.sin_port = htons(static_cast<uint16_t>(port));
        fds_.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_EQ(bind(fds_[0], reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
        EXPECT_EQ(listen(fds_[0], 0), 0);
        for (int i = 0; i < 4; i++) {
            fds_.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
            connect(fds_.back(), reinterpret_cast<sockaddr *>(&address), sizeof address);
        }
    }
    ~SilentAddress() {
        for (int fd : fds_)
            close(fd);
    }

  private:
    std::vector<int> fds_;
};

TEST(HttpNames, ASilentAddressIsLeftForTheNext) {
    Server server(answer_all());
    const SilentAddress silent(server.port());
    Owner owner(fixed({v4(127, 0, 0, 2), v4(127, 0, 0, 1)}));
    owner.connect_timeout = second;
    EXPECT_EQ(owner.ask(server.url("silent.example")).status, 200) << owner.done[0].error;
    // libcurl's versions wait from a fifth to a half of the time.
    EXPECT_GT(owner.done[0].elapsed, second / 10);
    EXPECT_EQ(owner.ask(server.url("silent.example")).status, 200);
}

// The first answer to a name is too old when the next address is to be dialled; further look-ups wait in the
// gate.
struct OldAnswer {
    std::shared_ptr<Gate> gate = std::make_shared<Gate>();
    Server server{answer_all()};
    SilentAddress silent{server.port()};
    Owner owner;

    explicit OldAnswer(const LookupResult &second_answer) {
        const auto lookups = std::make_shared<std::atomic<int>>(0);
        const auto lookup = [gate = gate, lookups, second_answer](const std::string &) {
            if (++*lookups == 1)
                return LookupResult{{v4(127, 0, 0, 2), v4(127, 0, 0, 1)}, "", false};
            gate->pass();
            return second_answer;
        };
        Resolver::Limits limits;
        limits.fresh = limits.stale = limits.negative = 0;
        owner.engine.reset(
            HttpEngine::create(owner.settings, std::make_unique<Resolver>(lookup, limits), owner.now()));
        owner.connect_timeout = 2 * second;
    }
    ~OldAnswer() { gate->open(); }

    // Comes back when the name is being looked up again, beside which others are served.
    void ask_again() {
        ASSERT_TRUE(owner.post(1, server.url("old.example")));
        alarm(60); // the engine may never come back
        ASSERT_TRUE(owner.until([&] { return gate->entered == 1; }));
        alarm(0);
        ASSERT_TRUE(owner.post(2, server.url()));
        ASSERT_TRUE(owner.until(owner.all(1)));
        EXPECT_EQ(owner.done[0].tag, 2u);
        EXPECT_EQ(owner.done[0].status, 200) << owner.done[0].error;
    }
};

TEST(HttpNames, AnAnswerMayBecomeTooOldBetweenTwoAddresses) {
    OldAnswer old({{v4(127, 0, 0, 2), v4(127, 0, 0, 1)}, "", false});
    ASSERT_NO_FATAL_FAILURE(old.ask_again());
    old.gate->open();
    ASSERT_TRUE(old.owner.until(old.owner.all(2)));
    EXPECT_EQ(old.owner.done[1].status, 200) << old.owner.done[1].error;
}

TEST(HttpNames, ANameMayBeGoneBetweenTwoAddresses) {
    OldAnswer old({{}, "unknown", false});
    ASSERT_NO_FATAL_FAILURE(old.ask_again());
    old.gate->open();
    ASSERT_TRUE(old.owner.until(old.owner.all(2)));
    EXPECT_EQ(old.owner.done[1].failure, Failure::name_lookup) << old.owner.done[1].error;
}

TEST(HttpNames, ANameServerMayBeGoneBetweenTwoAddresses) {
    OldAnswer old({{}, "no answer", true});
    ASSERT_NO_FATAL_FAILURE(old.ask_again());
    ASSERT_TRUE(old.owner.leap_until(old.owner.all(2)));
    EXPECT_EQ(old.owner.done[1].failure, Failure::connect_timeout);
    EXPECT_EQ(old.owner.done[1].error, "name lookup of \"old.example\" did not end within 2 s");
}

TEST(HttpNames, ANewAnswerIsDialled) {
    Server server(answer_all());
    auto address = std::make_shared<std::atomic<int>>(9);
    Owner owner([address](const std::string &) {
        return LookupResult{{v4(127, 0, 0, static_cast<uint8_t>(address->load()))}, "", false};
    });
    EXPECT_EQ(owner.ask(server.url("moving.example")).failure, Failure::connect);
    *address = 1;
    owner.ahead += 61 * second;
    owner.ask(server.url("moving.example")); // served by the old answer, which it has refreshed
    ASSERT_TRUE(owner.until([&] { return owner.ask(server.url("moving.example")).status == 200; }));
}

// ---- proxies

TEST(HttpProxy, TunnelsToTheJudgedAddress) {
    std::string connect;
    std::string head;
    Server proxy([&](Peer &peer) {
        if (!peer.read_request())
            return;
        connect = peer.head;
        peer.send("HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n");
        while (peer.read_request()) {
            head = peer.head;
            peer.send(response(200, "through"));
        }
    });
    Owner owner([](const std::string &name) {
        return name == "proxy.example" ? LookupResult{{v4(127, 0, 0, 1)}, "", false}
                                       : LookupResult{{v4(10, 0, 0, 1), v4(203, 0, 114, 5)}, "", false};
    });
    owner.policy.allowed_count = 0; // the proxy's own address is not judged
    const std::string url = proxy.url("proxy.example");
    owner.settings.proxy = slice(url);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    for (int i = 0; i < 2; i++) {
        const Outcome outcome = owner.ask("http://hook.example:8080/x");
        EXPECT_EQ(outcome.status, 200) << outcome.error;
        EXPECT_EQ(outcome.body, "through");
        EXPECT_EQ(outcome.headers, "Content-Length: 7");
    }
    EXPECT_EQ(connect.find("CONNECT 203.0.114.5:8080 HTTP/1.1\r\n"), 0u) << connect;
    EXPECT_EQ(connect.find("Content-Type"), std::string::npos) << connect;
    EXPECT_EQ(head.find("POST /x HTTP/1.1\r\nHost: hook.example:8080\r\n"), 0u) << head;
    EXPECT_EQ(proxy.connections(), 1);

    EXPECT_EQ(owner.ask("http://[2600::1]:81/").status, 200) << owner.done[0].error;
    EXPECT_EQ(connect.find("CONNECT [2600::1]:81 HTTP/1.1\r\n"), 0u) << connect;
    for (const char *inside : {"http://127.0.0.1:1/", "http://[::1]:1/", "http://10.1.1.1/"})
        EXPECT_EQ(owner.ask(inside).failure, Failure::refused_by_policy) << inside;
}

TEST(HttpProxy, RefusalIsTheProxysFailure) {
    Server proxy([](Peer &peer) {
        peer.read_request();
        peer.send(response(403, "no"));
    });
    Owner owner(fixed({v4(203, 0, 114, 5)}));
    const std::string url = proxy.url();
    owner.settings.proxy = slice(url);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const Outcome outcome = owner.ask("https://hook.example/");
    EXPECT_EQ(outcome.failure, Failure::proxy);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_NE(outcome.error.find("403"), std::string::npos) << outcome.error;
}

TEST(HttpProxy, EnvironmentIsIgnored) { // parity row 42
    Server server(answer_all());
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    Owner owner;
    EXPECT_EQ(owner.ask(server.url()).status, 200) << owner.done[0].error;
    unsetenv("http_proxy");
    unsetenv("all_proxy");
}

} // namespace
} // namespace whisperer::core::test
