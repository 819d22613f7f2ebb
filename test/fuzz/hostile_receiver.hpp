// A hostile receiver for the fuzzers of the HTTP engine: a script of bytes to send, over loopback, in clear
// or behind a TLS handshake that it makes as it should.
#pragma once

#include "fuzz.hpp"
#include "self_signed.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace whisperer::core::fuzz {

constexpr size_t most_sent = 1 << 20; // by one input, repetitions included

// A script is bytes to send, with these among them; none is in UTF-8.
enum Mark : uint8_t {
    escape = 0xFB, // the next byte as it is
    repeat = 0xFC, // what the piece has so far, 2^n times, n the low bits of the next byte
    frame = 0xFD,  // an HTTP/2 frame up to the next of these: its type, flags and stream follow, then what it
                   // carries
    piece = 0xFE,  // send what there is; the rest in another packet
    answer = 0xFF  // and the rest only when another request has come
};

enum class Ending : uint8_t { silence, close, reset };

struct Script {
    // One answer is pieces; each piece is sent at once.
    std::vector<std::vector<std::string>> answers;
    Ending ending;
    bool unasked;       // the first answer on a connection comes without a request
    bool secure;        // the other side speaks TLS
    bool http2 = false; // and so does this one: what the script says comes after a handshake
};

// Fills in the length of the frame that begins at `*start`, if there is one.
inline void end_frame(std::string *text, size_t *start) {
    if (*start == std::string::npos)
        return;
    const size_t length = text->size() - *start - 9;
    for (size_t i = 0; i < 3; i++)
        (*text)[*start + i] = static_cast<char>(length >> (16 - 8 * i));
    *start = std::string::npos;
}

inline std::vector<std::vector<std::string>> parse_answers(std::string_view text, bool http2) {
    std::vector<std::vector<std::string>> answers = {{""}};
    size_t total = 0;
    size_t start = std::string::npos; // of the frame being written
    for (size_t i = 0; i < text.size(); i++) {
        std::string &current = answers.back().back();
        const auto byte = static_cast<uint8_t>(text[i]);
        if (byte == answer || byte == piece) {
            end_frame(&current, &start);
            if (byte == answer)
                answers.push_back({""});
            else
                answers.back().push_back("");
        } else if (byte == frame && http2 && i + 3 < text.size()) {
            end_frame(&current, &start);
            start = current.size();
            current.append({0, 0, 0, text[i + 1], text[i + 2], 0, 0, 0, text[i + 3]});
            total += 9;
            i += 3;
        } else if (byte == repeat && i + 1 < text.size()) {
            for (int n = text[++i] & 15; n > 0 && total + current.size() <= most_sent; n--) {
                total += current.size();
                current += std::string(current);
            }
        } else {
            current.push_back(byte == escape && i + 1 < text.size() ? text[++i] : text[i]);
            total++;
        }
    }
    end_frame(&answers.back().back(), &start);
    return answers;
}

// ---- the receiver

inline int listener() {
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

inline uint16_t port() {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    require(getsockname(listener(), reinterpret_cast<sockaddr *>(&address), &size) == 0);
    return ntohs(address.sin_port);
}

class Connection {
  public:
    Connection(int fd, bool http2) : fd_(fd) {
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (http2) {
            tls_ = tls_connection(fd);
            preface_ = 24;
        }
    }
    ~Connection() {
        end(Ending::reset);
        SSL_free(tls_);
    }
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    // Reads what has come; `secure`: a TLS handshake, as far as it gets. *requests counts those that have
    // ended; with HTTP/2 those that have begun, which may be answered. Returns how often something was said
    // that wants an answer: a request, a CONNECT, a part of a handshake; with HTTP/2 the whole of it.
    size_t read(bool secure, size_t *requests) {
        if (tls_ != nullptr)
            return read_frames(requests);
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
    bool send(std::string *text) {
        if (fd_ < 0 || broken_)
            return false;
        if (tls_ != nullptr)
            return send_secured(text);
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
            if (tls_ != nullptr && !broken_ && SSL_is_init_finished(tls_))
                SSL_shutdown(tls_);
            ERR_clear_error();
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
    // False: there is nothing more at present. OpenSSL's errors are one list, which libcurl reads too.
    bool went_on(int result) {
        const int error = result > 0 ? SSL_ERROR_NONE : SSL_get_error(tls_, result);
        broken_ = broken_ ||
                  (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE);
        ERR_clear_error();
        return result > 0;
    }

    size_t read_frames(size_t *requests) {
        if (fd_ < 0 || broken_)
            return 0;
        size_t asked = 0;
        if (!SSL_is_init_finished(tls_)) {
            if (!went_on(SSL_accept(tls_)))
                return 0;
            asked++;
        }
        char chunk[65536];
        for (int n; went_on(n = SSL_read(tls_, chunk, sizeof chunk));)
            got_.append(chunk, static_cast<size_t>(n));
        const size_t greeted = std::min(preface_, got_.size());
        got_.erase(0, greeted);
        preface_ -= greeted;
        constexpr size_t head = 9;
        while (got_.size() >= head) {
            const auto at = [this](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(got_[i])); };
            const size_t length = at(0) << 16 | at(1) << 8 | at(2);
            if (got_.size() < head + length)
                break;
            if (at(3) == 1) { // HEADERS
                asked++;
                ++*requests;
            }
            got_.erase(0, head + length);
        }
        return asked;
    }

    bool send_secured(std::string *text) {
        if (!SSL_is_init_finished(tls_) || text->empty())
            return true;
        const int n = SSL_write(tls_, text->data(), static_cast<int>(std::min<size_t>(text->size(), 65536)));
        if (went_on(n))
            text->erase(0, static_cast<size_t>(n));
        return !broken_;
    }

    int fd_;
    SSL *tls_ = nullptr; // null: in clear
    bool broken_ = false;
    size_t preface_ = 0; // bytes of it that are still to come
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
        for (int fd; (fd = accept4(listener(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;
             active = true) {
            connections_.push_back(std::make_unique<Connection>(fd, script_.http2));
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
        if (!answering_ && begun_ == script_.answers.size()) {
            listen_to_all(); // or what was asked before would not be known
            connection.end(script_.ending);
        }
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

} // namespace whisperer::core::fuzz
