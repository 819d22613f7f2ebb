// The fields of a subscription as users give them, checked and taken apart for storing.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace whisperer::pg {

enum SubscriptionField : unsigned {
    FIELD_EVENT_TYPE = 1u << 0,
    FIELD_TARGET_URL = 1u << 1,
    FIELD_SECRET_KEY = 1u << 2,
    FIELD_CALLBACK = 1u << 3,
    FIELD_RETRY_COUNTDOWN_CONFIG = 1u << 4,
    FIELD_ADDITIONAL_HEADERS = 1u << 5,
    FIELD_CONFIG = 1u << 6,
    FIELD_IS_ACTIVE = 1u << 7,
    FIELD_AUTH = 1u << 8 // within config
};

// Text is in the database's encoding, terminated; everything palloc'ed. A field that is not in `given` is
// null; one that is given and null is to be removed.
struct SubscriptionInput {
    unsigned given; // SubscriptionFields
    char *event_type;
    char *target_url;
    char *secret_key;
    char *callback; // as the user named it
    Jsonb *retry_countdown_config;
    Jsonb *additional_headers;
    Jsonb *config; // after check_subscription_input(): without auth
    bool is_active;
    // Made by check_subscription_input() out of config:
    Jsonb *auth;
    char *auth_type;
};

// From an object with the fields as keys. 22023 for an unknown key and for a value of the wrong kind; null is
// only taken where it removes. `what` is the argument's name; is_active is a key only of changes to a
// subscription.
SubscriptionInput subscription_input_from_json(Jsonb *object, const char *what, bool is_change);

// 22023 unless the fields that every subscription has are given.
void require_subscription_keys(const SubscriptionInput &input, const char *what);

// Checks every field given, by the contract's rules; 22023 naming the field and what it may be, never showing
// a secret.
void check_subscription_input(SubscriptionInput *input);

// 22023 unless it is an object without the keys that have a meaning to whisperer.
void check_config_filter(Jsonb *filter);

// 22023 unless the name has 1 to 124 characters without control characters; 22021 when it cannot be made
// UTF-8.
void check_event_type_name(const char *event_type);

} // namespace whisperer::pg
