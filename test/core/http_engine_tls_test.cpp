// TLS: whom the engine believes.
#include "core/http_engine.hpp"

#include "loopback.hpp"

#include <gtest/gtest.h>

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace whisperer::core::test {
namespace {

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
