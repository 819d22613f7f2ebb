// Time, names, the address policy, proxies and TLS: what the engine must not let others do to it.
#include "core/http_engine.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace whisperer::core::test {
namespace {

constexpr Micros second = 1000000;

// Reads a request and never answers; counts.
Server::Script hang_after_request(std::atomic<int> &requests) {
    return [&requests](Peer &peer) {
        if (peer.read_request())
            ++requests;
        peer.hang();
    };
}

Server::Script answer_all() {
    return [](Peer &peer) {
        while (peer.read_request())
            peer.send(response(200, peer.body));
    };
}

LookupFunction fixed(std::vector<Address> addresses) {
    return [addresses](const std::string &) { return LookupResult{addresses, "", false}; };
}

// Where this process has no file descriptors left, the error does not say that the receiver cannot be
// reached.
TEST(HttpSockets, AShortageOfOurOwnIsToldAsSuch) {
    Server server(answer_all());
    Owner owner;
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const int next = fcntl(0, F_DUPFD_CLOEXEC, 0); // the lowest free one
    ASSERT_GE(next, 0);
    close(next);
    const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    EXPECT_TRUE(owner.post(1, server.url()));
    EXPECT_TRUE(owner.until(owner.all(1)));
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    ASSERT_EQ(owner.done.size(), 1u);
    EXPECT_EQ(owner.done[0].failure, Failure::internal);
    EXPECT_EQ(owner.done[0].error.find("the database server could not make a socket: "), 0u)
        << owner.done[0].error;
}

// ---- time

TEST(HttpTime, ResponseTimeoutTellsWhatHappened) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url(), "12345"));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    const Micros before = owner.ahead;
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::response_timeout);
    EXPECT_EQ(owner.done[0].status, 0);
    EXPECT_EQ(owner.done[0].error.find("no response within 10 s (name lookup 0 ms, connect "), 0u)
        << owner.done[0].error;
    EXPECT_NE(owner.done[0].error.find("received 0 bytes"), std::string::npos) << owner.done[0].error;
    EXPECT_EQ(owner.done[0].error.find("sent 0 bytes"), std::string::npos) << owner.done[0].error;
    EXPECT_GT(owner.ahead - before, 8 * second);
    EXPECT_LT(owner.ahead - before, 11 * second);
}

TEST(HttpTime, TrickleIsCutAtTheLimit) {
    std::atomic<bool> stop{false};
    std::atomic<int> sent{0};
    Server server([&](Peer &peer) {
        peer.read_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        while (!stop && peer.send("x")) {
            ++sent;
            std::this_thread::sleep_for(
                std::chrono::milliseconds(1)); // the receiver's pace, no wait for a state
        }
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return sent > 3; }));
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    stop = true;
    EXPECT_EQ(owner.done[0].failure, Failure::response_timeout);
    EXPECT_EQ(owner.done[0].status, 200);
    EXPECT_EQ(owner.done[0].error.find("the response was not complete within 10 s"), 0u)
        << owner.done[0].error;
}

TEST(HttpTime, ConnectTimeoutCoversTheNameLookup) {
    auto gate = std::make_shared<Gate>();
    Owner owner([gate](const std::string &) {
        gate->pass();
        return LookupResult{};
    });
    ASSERT_TRUE(owner.post(1, "http://hung.example/"));
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::connect_timeout);
    EXPECT_NE(owner.done[0].error.find("\"hung.example\" did not end within 5 s"), std::string::npos)
        << owner.done[0].error;
    gate->open();
}

TEST(HttpTime, ConnectTimeoutCoversTheTlsHandshake) {
    std::atomic<int> accepted{0};
    Server server([&](Peer &peer) {
        ++accepted;
        peer.hang();
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, "https://127.0.0.1:" + std::to_string(server.port()) + "/"));
    ASSERT_TRUE(owner.until([&] { return accepted == 1; }));
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::connect_timeout);
    EXPECT_EQ(owner.done[0].error.find("no connection within 5 s"), 0u) << owner.done[0].error;
}

TEST(HttpTime, AHungReceiverHoldsUpNobody) {
    std::atomic<int> hung{0};
    Server hanging(hang_after_request(hung));
    Server server(answer_all());
    Owner owner;
    for (uint64_t i = 0; i < 50; i++)
        ASSERT_TRUE(owner.post(i, hanging.url()));
    ASSERT_TRUE(owner.until([&] { return hung == 50; }));
    ASSERT_TRUE(owner.post(100, server.url()));
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].tag, 100u);
    EXPECT_EQ(owner.engine->in_flight(), 50u);
}

TEST(HttpTime, AnAnswerThatCameDuringAStallCounts) {
    std::atomic<bool> answered{false};
    Server server([&](Peer &peer) {
        peer.read_request();
        peer.send(response(200, std::string(300000, 'x')));
        answered = true;
        peer.hang();
    });
    Owner owner;
    owner.max_body = 1 << 20;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return answered.load(); }));
    if (owner.done.empty()) {
        owner.ahead += 60 * second; // the owner was away
        owner.engine->step(owner.now());
    }
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].failure, Failure::none) << owner.done[0].error;
    EXPECT_EQ(owner.done[0].body.size(), 300000u);
}

// The ways in which an owner can be late; the receiver is charged for none of them.
TEST(HttpTime, AStallIsNotCountedAgainstTheReceiver) {
    std::atomic<int> requests{0};
    Gate gate;
    Server server([&](Peer &peer) {
        peer.read_request();
        ++requests;
        gate.pass();
        peer.send(response(200, ""));
    });
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    // Slept longer than it should have.
    owner.engine->timeout_ms(owner.now());
    owner.ahead += 60 * second;
    owner.engine->step(owner.now());
    EXPECT_EQ(owner.engine->peek_done(), nullptr);
    // Busy between step and wait.
    owner.ahead += 60 * second;
    owner.engine->timeout_ms(owner.now());
    owner.engine->step(owner.now());
    EXPECT_EQ(owner.engine->peek_done(), nullptr);
    // Busy between step and step.
    owner.ahead += 60 * second;
    owner.engine->step(owner.now());
    EXPECT_EQ(owner.engine->peek_done(), nullptr);
    gate.open();
    ASSERT_TRUE(owner.until(owner.all(1)));
    EXPECT_EQ(owner.done[0].status, 200) << owner.done[0].error;
}

TEST(HttpTime, ARequestAddedAfterAStallHasItsOwnTimeOnly) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    owner.ahead += 600 * second;
    ASSERT_TRUE(owner.post(2, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 2; }));
    const Micros before = owner.ahead;
    ASSERT_TRUE(owner.leap_until(owner.all(2)));
    EXPECT_EQ(owner.done[1].failure, Failure::response_timeout);
    EXPECT_LT(owner.ahead - before, 12 * second);
}

TEST(HttpTime, AnIdleEngineDoesNotTakeIdleTimeForAStall) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner;
    EXPECT_EQ(owner.engine->timeout_ms(owner.now()), -1);
    owner.ahead += 3600 * second;
    ASSERT_TRUE(owner.post(1, server.url()));
    ASSERT_TRUE(owner.until([&] { return requests == 1; }));
    const Micros before = owner.ahead;
    ASSERT_TRUE(owner.leap_until(owner.all(1)));
    EXPECT_LT(owner.ahead - before, 12 * second);
}

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

TEST(HttpNames, InternationalizedOnesAreLookedUpInAscii) {
    Server server(answer_all());
    Owner owner([](const std::string &name) {
        return name == "xn--bcher-kva.example" ? LookupResult{{v4(127, 0, 0, 1)}, "", false}
                                               : LookupResult{{}, "unexpected " + name, false};
    });
    const std::string url = server.url("b\xc3\xbc"
                                       "cher.example");
    // libcurl takes the name as text of the locale.
    ASSERT_NE(setlocale(LC_CTYPE, "C.UTF-8"), nullptr);
    EXPECT_EQ(owner.ask(url).status, 200) << owner.done[0].error;
    setlocale(LC_CTYPE, "C");
    Owner other(fixed({v4(127, 0, 0, 1)}));
    EXPECT_NE(other.ask(url).error.find("xn--"), std::string::npos) << other.done[0].error;
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

TEST(HttpNames, ASilentAddressIsLeftForTheNext) {
    // A listener whose queue is full answers no further SYN.
    const int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(0x7f000002);
    Server server(answer_all());
    address.sin_port = htons(static_cast<uint16_t>(server.port()));
    ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    ASSERT_EQ(listen(silent, 0), 0);
    std::vector<int> fillers;
    for (int i = 0; i < 4; i++) {
        fillers.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        connect(fillers.back(), reinterpret_cast<sockaddr *>(&address), sizeof address);
    }
    Owner owner(fixed({v4(127, 0, 0, 2), v4(127, 0, 0, 1)}));
    owner.connect_timeout = second;
    EXPECT_EQ(owner.ask(server.url("silent.example")).status, 200) << owner.done[0].error;
    // libcurl's versions wait from a fifth to a half of the time.
    EXPECT_GT(owner.done[0].elapsed, second / 10);
    EXPECT_EQ(owner.ask(server.url("silent.example")).status, 200);
    for (int fd : fillers)
        close(fd);
    close(silent);
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

// ---- the address policy

TEST(HttpPolicy, RefusesWhatIsNotAllowed) {
    std::atomic<int> requests{0};
    Server server(hang_after_request(requests));
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    owner.policy.allowed_count = 0;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    for (const char *host : {"127.0.0.1", "inside.example"}) {
        const Outcome outcome = owner.ask(server.url(host));
        EXPECT_EQ(outcome.failure, Failure::refused_by_policy) << host;
        EXPECT_EQ(outcome.error,
                  "address 127.0.0.1 (loopback) is not allowed; see whisperer.allowed_networks");
    }
    const Outcome six = owner.ask("http://[::1]:1/");
    EXPECT_EQ(six.failure, Failure::refused_by_policy);
    EXPECT_NE(six.error.find("address ::1 (loopback)"), std::string::npos) << six.error;
    EXPECT_EQ(owner.ask("http://[::ffff:127.0.0.1]:1/").failure, Failure::refused_by_policy);
    EXPECT_EQ(server.connections(), 0);
}

TEST(HttpPolicy, UsesTheAddressThatIsAllowed) {
    Server server(answer_all());
    Owner owner(fixed({v4(10, 0, 0, 1), v4(192, 168, 1, 1), v4(127, 0, 0, 1)}));
    EXPECT_EQ(owner.ask(server.url("mixed.example")).status, 200) << owner.done[0].error;
}

TEST(HttpPolicy, HoldsForRequestsAfterAChange) {
    Server server(answer_all());
    Owner owner;
    EXPECT_EQ(owner.ask(server.url()).status, 200);
    owner.policy.allowed_count = 0;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    EXPECT_EQ(owner.ask(server.url()).failure, Failure::refused_by_policy);
    owner.policy.allowed_count = 2;
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    EXPECT_EQ(owner.ask(server.url()).status, 200);
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

// ---- TLS

// A TLS server with a certificate of its own making, by the openssl program.
class TlsServer {
  public:
    explicit TlsServer(std::vector<std::string> options = {}) {
        char name[] = "/tmp/whisperer-tls-XXXXXX";
        if (mkdtemp(name) == nullptr)
            throw std::runtime_error("mkdtemp");
        directory = name;
        const int made =
            run({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", directory + "/key", "-out", certificate(), "-days", "2", "-subj",
                 "/CN=hook.example", "-addext", "subjectAltName=DNS:hook.example"},
                -1, -1, nullptr);
        if (made != 0)
            throw std::runtime_error("openssl req failed");
        int in[2];
        int out[2];
        if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
            throw std::runtime_error("pipe2");
        std::vector<std::string> arguments = {"openssl", "s_server",         "-accept", "127.0.0.1:0",
                                              "-key",    directory + "/key", "-cert",   certificate(),
                                              "-alpn",   "http/1.1"};
        arguments.insert(arguments.end(), options.begin(), options.end());
        run(arguments, in[0], out[1], &process_);
        close(in[0]);
        close(out[1]);
        input = in[1];
        output_ = out[0];
        read_port();
    }
    ~TlsServer() {
        kill(process_, SIGKILL);
        waitpid(process_, nullptr, 0);
        close(input);
        close(output_);
        std::filesystem::remove_all(directory);
    }
    std::string certificate() const { return directory + "/cert"; }
    std::string url(const std::string &host) const { return "https://" + host + ":" + port + "/"; }

    std::string directory;
    std::string port;
    int input = -1; // what is written here goes to the client

  private:
    // Runs a program; waits for its end unless `process` is given.
    static int run(const std::vector<std::string> &arguments, int in, int out, pid_t *process) {
        std::vector<char *> argv;
        for (const std::string &argument : arguments)
            argv.push_back(const_cast<char *>(argument.c_str()));
        argv.push_back(nullptr);
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        if (in >= 0)
            posix_spawn_file_actions_adddup2(&actions, in, 0);
        else
            posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        if (out >= 0)
            posix_spawn_file_actions_adddup2(&actions, out, 1);
        else
            posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
        pid_t pid = -1;
        const int rc = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
        posix_spawn_file_actions_destroy(&actions);
        if (rc != 0)
            throw std::runtime_error("the openssl program cannot be run");
        if (process != nullptr) {
            *process = pid;
            return 0;
        }
        int status = 0;
        waitpid(pid, &status, 0);
        return status;
    }

    void read_port() { // "ACCEPT 127.0.0.1:41235"
        std::string text;
        char c;
        size_t at;
        while ((at = text.find("ACCEPT ")) == std::string::npos || text.find('\n', at) == std::string::npos) {
            if (read(output_, &c, 1) != 1)
                throw std::runtime_error("s_server failed: " + text);
            text.push_back(c);
        }
        port = text.substr(text.find(':', at) + 1);
        port.pop_back();
    }

    int output_ = -1;
    pid_t process_ = -1;
};

TEST(HttpTls, RefusesACertificateNobodyVouchesFor) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls);
    EXPECT_NE(outcome.error.find("certificate"), std::string::npos) << outcome.error;
}

TEST(HttpTls, TakesTheSettingsCaAndChecksTheName) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const std::string answer = response(200, "sealed");
    ASSERT_EQ(write(server.input, answer.data(), answer.size()), static_cast<ssize_t>(answer.size()));
    const Outcome good = owner.ask(server.url("hook.example"));
    EXPECT_EQ(good.status, 200) << good.error;
    EXPECT_EQ(good.body, "sealed");
}

TEST(HttpTls, RefusesAnotherName) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    EXPECT_EQ(owner.ask(server.url("other.example")).failure, Failure::tls);
}

TEST(HttpTls, RefusesOldVersions) {
    TlsServer server({"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"});
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    const std::string ca = server.certificate();
    owner.settings.ca_file = slice(ca);
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls) << outcome.error;
}

TEST(HttpTls, ABadCaFileIsNamed) {
    TlsServer server;
    Owner owner(fixed({v4(127, 0, 0, 1)}));
    owner.settings.ca_file = slice("/nonexistent/ca.pem");
    ASSERT_TRUE(owner.engine->configure(owner.settings));
    const Outcome outcome = owner.ask(server.url("hook.example"));
    EXPECT_EQ(outcome.failure, Failure::tls);
    EXPECT_NE(outcome.error.find("/nonexistent/ca.pem"), std::string::npos) << outcome.error;
}

} // namespace
} // namespace whisperer::core::test
