// For the tests of the HTTP engine: a TLS server, by the openssl program, which the test speaks for.
#pragma once

#include "loopback.hpp"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <spawn.h>
#include <sys/wait.h>

namespace whisperer::core::test {

// It has a certificate of its own making, and one connection at a time.
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

    void say(const std::string &bytes) const {
        if (write(input, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
            throw std::runtime_error("s_server takes no input");
    }

    // How often this came from clients.
    size_t heard(const std::string &what) {
        pollfd fd{output_, POLLIN, 0};
        char chunk[4096];
        while (poll(&fd, 1, 0) == 1) {
            const ssize_t n = read(output_, chunk, sizeof chunk);
            if (n <= 0)
                break;
            said_.append(chunk, static_cast<size_t>(n));
        }
        size_t count = 0;
        for (size_t at = said_.find(what); at != std::string::npos; at = said_.find(what, at + 1))
            count++;
        return count;
    }

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
    std::string said_;
    pid_t process_ = -1;
};

} // namespace whisperer::core::test
