// The keys of a subscription's config that mean something to whisperer.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

// auth, request_timeout, max_attempts, max_in_flight; every other key is the user's own.
bool is_reserved_config_key(const char *key);

// Checks the reserved keys; 22023 naming the key. Nothing of auth but names of keys ever gets into an error.
void check_config(Jsonb *config);

// auth of a checked config as a document of its own; null when there is none. *given: the key is there, be it
// null.
Jsonb *config_auth(Jsonb *config, bool *given, char **auth_type);

// Takes request_timeout, where the config has it, into *timeout.
void config_request_timeout(Jsonb *config, struct RequestTimeout *timeout);

// The config without auth.
Jsonb *config_without_auth(Jsonb *config);

} // namespace whisperer::pg
