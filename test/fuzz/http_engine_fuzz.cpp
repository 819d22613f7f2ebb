// The HTTP engine against a receiver that sends whatever the fuzzer thinks of, in pieces of its choice, and
// then falls silent, closes or resets. Every request ends, once, within its time; what its result says is in
// bounds; and nobody is answered who has not asked: bytes that come before a request are not its response.
//
// All in one thread: the receiver's sockets are served between the engine's steps, over loopback, and time is
// the engine's injected clock, so that waiting for a time-out takes none.
#include "core/http_engine.hpp"
#include "core/retry_after.hpp"
#include "fuzz.hpp"

#include <cerrno>
#include <memory>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

constexpr size_t most_sent = 1 << 20; // by one input, repetitions included
constexpr int most_steps = 20000;

// ---- the receiver's script

// A script is bytes to send, with these among them; none is in UTF-8.
enum Mark : uint8_t {
    escape = 0xFB, // the next byte as it is
    repeat = 0xFC, // what the piece has so far, 2^n times, n the low bits of the next byte
    piece = 0xFE,  // send what there is; the rest in another packet
    answer = 0xFF  // and the rest only when another request has come
};

enum class Ending : uint8_t { silence, close, reset };

struct Script {
    // One answer is pieces; each piece is sent at once.
    std::vector<std::vector<std::string>> answers;
    Ending ending;
    bool unasked; // the first answer on a connection comes without a request
    bool secure;  // the other side speaks TLS
};

std::vector<std::vector<std::string>> parse_answers(std::string_view text) {
    std::vector<std::vector<std::string>> answers = {{""}};
    size_t total = 0;
    for (size_t i = 0; i < text.size(); i++) {
        std::string &current = answers.back().back();
        const auto byte = static_cast<uint8_t>(text[i]);
        if (byte == answer)
            answers.push_back({""});
        else if (byte == piece)
            answers.back().push_back("");
        else if (byte == repeat && i + 1 < text.size()) {
            for (int n = text[++i] & 15; n > 0 && total + current.size() <= most_sent; n--) {
                total += current.size();
                current += std::string(current);
            }
        } else {
            current.push_back(byte == escape && i + 1 < text.size() ? text[++i] : text[i]);
            total++;
        }
    }
    return answers;
}

// ---- the receiver

int listener() {
    static const int fd = [] {
        const int made = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        require(made >= 0 && bind(made, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
        require(listen(made, 64) == 0);
        return made;
    }();
    return fd;
}

uint16_t port() {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    require(getsockname(listener(), reinterpret_cast<sockaddr *>(&address), &size) == 0);
    return ntohs(address.sin_port);
}

class Connection {
  public:
    explicit Connection(int fd) : fd_(fd) {
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    ~Connection() { end(Ending::reset); }
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    // Reads what has come; `secure`: a TLS handshake, as far as it gets. *requests counts those that have
    // ended. Returns how often something was said that wants an answer: a request, a CONNECT, a part of a
    // handshake.
    size_t read(bool secure, size_t *requests) {
        char chunk[65536];
        ssize_t n = 0;
        size_t asked = 0;
        while (fd_ >= 0 && (n = recv(fd_, chunk, sizeof chunk, MSG_DONTWAIT)) > 0) {
            got_.append(chunk, static_cast<size_t>(n));
            asked += secure ? 1 : 0;
        }
        for (size_t end;
             got_.compare(0, 8, "CONNECT ") == 0 && (end = got_.find("\r\n\r\n")) != std::string::npos;
             asked++)
            got_.erase(0, end + 4);
        for (size_t end; (end = got_.find(body)) != std::string::npos; asked++, ++*requests)
            got_.erase(0, end + body.size());
        return asked;
    }

    // Takes off the front of *text what could be sent. False: the other side is gone.
    bool send(std::string *text) const {
        if (fd_ < 0)
            return false;
        const ssize_t n = ::send(fd_, text->data(), text->size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK;
        text->erase(0, static_cast<size_t>(n));
        return true;
    }

    void end(Ending how) {
        if (fd_ < 0 || how == Ending::silence)
            return;
        if (how == Ending::close) {
            shutdown(fd_, SHUT_WR);
            return;
        }
        const linger hard{1, 0}; // which also leaves nothing behind in the kernel
        setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close(fd_);
        fd_ = -1;
    }

    static constexpr std::string_view body = "{\"the\": \"body\"}";

  private:
    int fd_;
    std::string got_;
};

class Receiver {
  public:
    explicit Receiver(Script script) : script_(std::move(script)) {}

    // Does what there is to do; false: nothing.
    bool serve() {
        const bool heard = listen_to_all();
        return say_next() || heard;
    }

    size_t requests() const { return requests_; } // read to their ends
    size_t answers() const { return begun_; }     // begun

  private:
    bool listen_to_all() {
        bool active = false;
        for (int fd; (fd = accept4(listener(), nullptr, nullptr, SOCK_CLOEXEC)) >= 0; active = true) {
            connections_.push_back(std::make_unique<Connection>(fd));
            waiting_ += script_.unasked ? 1 : 0;
        }
        for (const auto &connection : connections_) {
            const size_t asked = connection->read(script_.secure, &requests_);
            waiting_ += asked;
            active = active || asked > 0;
        }
        return active;
    }

    // The next piece of an answer, on the newest connection.
    bool say_next() {
        if (!answering_) {
            if (waiting_ == 0 || begun_ == script_.answers.size() || connections_.empty())
                return false;
            waiting_--;
            begun_++;
            answering_ = true;
            piece_ = 0;
        }
        std::vector<std::string> &pieces = script_.answers[begun_ - 1];
        Connection &connection = *connections_.back();
        const size_t before = pieces[piece_].size();
        if (!connection.send(&pieces[piece_]))
            piece_ = pieces.size(); // nobody is there any more
        else if (pieces[piece_].empty())
            piece_++;
        else
            return pieces[piece_].size() < before; // the rest when the engine has read some
        answering_ = piece_ < pieces.size();
        if (!answering_ && begun_ == script_.answers.size())
            connection.end(script_.ending);
        return true;
    }

    Script script_;
    std::vector<std::unique_ptr<Connection>> connections_;
    size_t waiting_ = 0;
    size_t requests_ = 0;
    size_t begun_ = 0;
    size_t piece_ = 0;
    bool answering_ = false;
};

// ---- the owner

// A certificate to trust: reading the system's many for each engine would take most of the time.
const std::string &trusted() {
    static const std::string path = [] {
        EVP_PKEY *key = EVP_EC_gen("P-256");
        X509 *certificate = X509_new();
        X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
        X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
        require(X509_set_pubkey(certificate, key) == 1 && X509_sign(certificate, key, EVP_sha256()) > 0);
        const int fd = memfd_create("trusted", 0);
        FILE *file = fdopen(fd, "w");
        require(file != nullptr && PEM_write_X509(file, certificate) == 1 && fflush(file) == 0);
        X509_free(certificate);
        EVP_PKEY_free(key);
        return "/proc/self/fd/" + std::to_string(fd);
    }();
    return path;
}

constexpr Micros connect_timeout = 5000000;
constexpr Micros response_timeout = 10000000;

struct Plan {
    uint64_t requests;
    bool at_once;
    bool secure;
    bool proxy;
    size_t max_body;
    bool configures; // in the midst
    int event_step;
};

bool one_line(std::string_view text) {
    for (char c : text)
        if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F)
            return false;
    return true;
}

class Owner {
  public:
    Owner(const Plan &plan, Receiver *receiver) : plan_(plan), receiver_(receiver) {
        policy_.allowed_count = 1;
        policy_.allowed[0].address.bytes = {127};
        policy_.allowed[0].prefix = 8;
        settings_.policy = &policy_;
        settings_.max_connections = 4;
        settings_.ca_file = slice(trusted());
        proxy_ = "http://127.0.0.1:" + std::to_string(port());
        if (plan.proxy)
            settings_.proxy = slice(proxy_);
        engine_.reset(HttpEngine::create(settings_, now_));
        require(engine_ != nullptr);
    }

    void run() {
        int step = 0;
        post();
        while (engine_->in_flight() > 0) {
            require(++step < most_steps); // it goes round and round
            if (step == plan_.event_step)
                interfere();
            const bool active = receiver_->serve();
            pollfd ready{engine_->wait_fd(), POLLIN, 0};
            if (!active && poll(&ready, 1, 0) == 0)
                wait();
            engine_->step(now_ += 5);
            collect();
        }
        require(posted_ == plan_.requests && ended_ == posted_);
        require(engine_->peek_done() == nullptr);
    }

  private:
    void post() {
        do {
            const std::string url = std::string(plan_.secure ? "https" : "http") +
                                    "://127.0.0.1:" + std::to_string(port()) + "/in";
            const Slice header = slice("Content-Type: application/json");
            HttpRequest request{};
            request.tag = ++posted_;
            request.url = slice(url);
            request.headers = &header;
            request.header_count = 1;
            request.body = slice(Connection::body);
            request.connect_timeout = connect_timeout;
            request.response_timeout = response_timeout;
            request.max_response_body = plan_.max_body;
            require(engine_->add(request, now_));
        } while (plan_.at_once && posted_ < plan_.requests);
    }

    // Nothing moves: the time passes that the engine allows.
    void wait() {
        const int timeout = engine_->timeout_ms(now_);
        require(timeout >= 0 && timeout <= 1000);
        now_ += timeout * Micros{1000};
    }

    void interfere() {
        if (plan_.configures) {
            settings_.max_connections = 3;
            require(engine_->configure(settings_));
        }
    }

    void collect() {
        while (const HttpResult *result = engine_->peek_done()) {
            check(*result);
            ended_++;
            engine_->pop_done();
            if (posted_ < plan_.requests && ended_ == posted_)
                post();
        }
    }

    void check(const HttpResult &result) {
        require(result.tag >= 1 && result.tag <= posted_ && (seen_ >> result.tag & 1) == 0);
        seen_ |= uint64_t{1} << result.tag;
        require(result.body.len <= plan_.max_body);
        require(!result.body_truncated || result.body.len == plan_.max_body);
        require(result.headers.len <= 2 * (64 << 10)); // received: 64 kB; a bare LF is kept as CRLF
        require(result.retry_after.empty() || (result.retry_after.data >= result.headers.data &&
                                               result.retry_after.data + result.retry_after.len <=
                                                   result.headers.data + result.headers.len));
        const int wait = parse_retry_after(result.retry_after, 1790000000);
        require(wait == -1 || (wait >= 1 && wait <= max_retry_after_seconds));
        require(one_line(result.error.view()));
        require(result.elapsed >= 0 && result.elapsed <= connect_timeout + response_timeout + 1500000);
        if (result.failure != Failure::none) {
            require(!result.error.empty() && result.failure != Failure::internal);
            return;
        }
        require(result.error.empty() && result.status >= 200 && result.status <= 999 && !plan_.secure);
        // What the receiver said, it said to somebody who had asked.
        receiver_->serve();
        good_++;
        require(good_ <= receiver_->requests() && good_ <= receiver_->answers());
    }

    Plan plan_;
    Receiver *receiver_;
    AddressPolicy policy_{};
    EngineSettings settings_{};
    std::string proxy_;
    Micros now_ = 1000000;
    std::unique_ptr<HttpEngine> engine_;
    uint64_t posted_ = 0, ended_ = 0, seen_ = 0;
    size_t good_ = 0;
};

} // namespace

// Input: two bytes of plan, then the receiver's script.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const uint8_t first = input.byte();
    const uint8_t second = input.byte();
    constexpr size_t bodies[] = {65536, 0, 1, 100};
    constexpr Ending endings[] = {Ending::silence, Ending::close, Ending::close, Ending::reset};
    Script script;
    script.answers = parse_answers(input.rest());
    script.unasked = (first & 4) != 0;
    script.secure = (first & 8) != 0;
    script.ending = endings[first >> 6];
    Plan plan{};
    plan.requests = 1 + (first & 3) % 3;
    plan.secure = script.secure;
    plan.proxy = (first & 16) != 0;
    plan.at_once = (first & 32) != 0;
    plan.max_body = bodies[second & 3];
    plan.configures = (second >> 2 & 3) == 3;
    plan.event_step = 1 + (second >> 4);
    Receiver receiver(std::move(script));
    Owner(plan, &receiver).run();
    return 0;
}
