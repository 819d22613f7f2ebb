// A subscription's row as sending needs it, for everybody who sends: the delivery worker and a synchronous
// delivery.
//
// A statement selects SENDING_COLUMNS first, from whisperer.subscription s with SENDING_JOINS; the functions
// then read the rows of the last result. What they return points into memory of the current context, or of
// the result.
#pragma once

#include "pg/prelude.hpp"

namespace whisperer::pg {

#define SENDING_COLUMNS                                                                                      \
    "s.id, s.target_url, s.additional_headers, s.config, s.retry_countdown_config, s.is_active,"             \
    " s.ended_date IS NOT NULL, s.owner_oid, s.owner_name, s.owner_system, s.owner_dropped, c.secret_key, "  \
    "c.auth,"                                                                                                \
    " t.consecutive_failures, t.paused_until, t.last_status, t.last_error, s.callback IS NOT NULL,"          \
    " s.has_secret AND c.secret_key IS NULL OR s.auth_type IS NOT NULL AND c.auth IS NULL"
#define SENDING_JOINS                                                                                        \
    " LEFT JOIN whisperer.subscription_secret c ON c.subscription_id = s.id"                                 \
    " LEFT JOIN whisperer.subscription_state t ON t.subscription_id = s.id"

enum SendingColumn {
    SENDING_ID = 1,
    SENDING_URL,
    SENDING_HEADERS,
    SENDING_CONFIG,
    SENDING_COUNTDOWN,
    SENDING_ACTIVE,
    SENDING_ENDED,
    SENDING_OWNER_OID,
    SENDING_OWNER_NAME,
    SENDING_OWNER_SYSTEM,
    SENDING_OWNER_DROPPED,
    SENDING_SECRET,
    SENDING_AUTH,
    SENDING_FAILURES,
    SENDING_PAUSED,
    SENDING_STATUS,
    SENDING_ERROR,
    SENDING_HAS_CALLBACK,
    SENDING_INCOMPLETE,
    SENDING_NEXT // the first column that the statement may add of its own
};

int64 sending_subscription(uint64 row);

// Has it been ended by unsubscribe()?
bool sending_ended(uint64 row);

// Are its secrets missing? They are on their way, by a restore that has loaded the subscription already:
// nothing is sent without them.
bool sending_incomplete(uint64 row);

core::SubscriptionFields sending_fields(uint64 row);

// What was learnt of the receiver; false when nothing was.
bool sending_state(uint64 row, core::ReceiverState *state);

} // namespace whisperer::pg
