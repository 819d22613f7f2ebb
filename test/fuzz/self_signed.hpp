// A certificate for 127.0.0.1 that the engine is told to trust (reading the system's many for each engine
// would take most of the time), and a server's side of TLS with it.
#pragma once

#include "fuzz.hpp"

#include <csignal>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/mman.h>

namespace whisperer::core::fuzz {

struct SelfSigned {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();

    SelfSigned() {
        X509_set_version(certificate, X509_VERSION_3);
        X509_gmtime_adj(X509_getm_notBefore(certificate), -86400);
        X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
        X509_NAME *subject = X509_get_subject_name(certificate);
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                   reinterpret_cast<const unsigned char *>("receiver"), -1, -1, 0);
        X509_set_issuer_name(certificate, subject); // libcurl wants one to be there
        X509_EXTENSION *name = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
        require(name != nullptr && X509_add_ext(certificate, name, -1) == 1);
        X509_EXTENSION_free(name);
        require(X509_set_pubkey(certificate, key) == 1 && X509_sign(certificate, key, EVP_sha256()) > 0);
    }
};

inline const SelfSigned &self_signed() {
    static const SelfSigned made;
    return made;
}

// The file to trust.
inline const std::string &trusted() {
    static const std::string path = [] {
        const int fd = memfd_create("trusted", 0);
        FILE *file = fdopen(fd, "w");
        require(file != nullptr && PEM_write_X509(file, self_signed().certificate) == 1 && fflush(file) == 0);
        return "/proc/self/fd/" + std::to_string(fd);
    }();
    return path;
}

inline int choose_http2(SSL *, const unsigned char **out, unsigned char *length, const unsigned char *offered,
                        unsigned offered_length, void *) {
    constexpr unsigned char http2[] = {2, 'h', '2'};
    unsigned char *chosen = nullptr;
    if (SSL_select_next_proto(&chosen, length, http2, sizeof http2, offered, offered_length) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

inline SSL *tls_connection(int fd) {
    static SSL_CTX *const context = [] {
        signal(SIGPIPE, SIG_IGN); // OpenSSL writes to whom is gone; PostgreSQL's processes ignore it too
        SSL_CTX *made = SSL_CTX_new(TLS_server_method());
        require(made != nullptr && SSL_CTX_use_certificate(made, self_signed().certificate) == 1 &&
                SSL_CTX_use_PrivateKey(made, self_signed().key) == 1);
        SSL_CTX_set_alpn_select_cb(made, choose_http2, nullptr);
        SSL_CTX_set_num_tickets(made, 0);
        SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        return made;
    }();
    SSL *tls = SSL_new(context);
    require(tls != nullptr && SSL_set_fd(tls, fd) == 1);
    SSL_set_accept_state(tls);
    return tls;
}

} // namespace whisperer::core::fuzz
