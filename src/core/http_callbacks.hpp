// What libcurl calls while a request of the engine runs. Internal to the engine. None of these throws: they
// are called by C code.
#pragma once

#include "core/http_transfer.hpp"

namespace whisperer::core {

// One header line, with its end (CURLOPT_HEADERFUNCTION).
size_t on_header(char *data, size_t size, size_t count, void *transfer) noexcept;

// A piece of the body (CURLOPT_WRITEFUNCTION).
size_t on_body(char *data, size_t size, size_t count, void *transfer) noexcept;

// Judges the address that is about to be dialled, every one of them (CURLOPT_OPENSOCKETFUNCTION).
curl_socket_t on_open_socket(void *transfer, curlsocktype purpose, curl_sockaddr *address) noexcept;

// CURLOPT_CLOSESOCKETFUNCTION; gets the Engine, for a connection outlives the request that opened it.
int on_close_socket(void *engine, curl_socket_t fd) noexcept;

// The connection is ready for the request, new or reused: judges it once more, and the response's time begins
// (CURLOPT_PREREQFUNCTION).
int on_ready(void *transfer, char *remote, char *local, int remote_port, int local_port) noexcept;

// libcurl is about to look a name up by itself, which must never happen (CURLOPT_RESOLVER_START_FUNCTION). It
// is also called for addresses, where it is harmless.
int on_resolver_start(void *state, void *reserved, void *transfer) noexcept;

// A connection's TLS is set up (CURLOPT_SSL_CTX_FUNCTION, an OpenSSL context): bounds what one may say at a
// time without an answer to anybody in it. libcurl (seen with 7.88) reads HTTP/2 until there is something for
// the stream in hand; frames for others, or for none, that come as fast as they are read keep it from ever
// coming back.
CURLcode on_tls(CURL *easy, void *context, void *engine) noexcept;

} // namespace whisperer::core
