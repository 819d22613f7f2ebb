// Finding one delivery of the caller's, and moving rows between whisperer.delivery and whisperer.history.
//
// A delivery is in exactly one of the two tables: every move is one statement in one transaction.
#pragma once

#include "pg/prelude.hpp"

extern "C" {
#include "utils/array.h"
#include "utils/uuid.h"
}

// The columns that both tables have and a move keeps; all but state, xid, due, not_before and modified_date.
#define WHISPERER_KEPT_COLUMNS                                                                               \
    "uuid, subscription_id, attempts, event_type, event_uuid, payload, body, relation_schema,"               \
    " relation_name, response_http_status, response_content, response_time, error, request_datetimes,"       \
    " created_date"

namespace whisperer::pg {

enum class DeliveryState { pending, delivered, failed, cancelled };

struct FoundDelivery {
    DeliveryState state;
    int64 subscription_id;
    bool has_body;       // false: the event failed before it had one
    bool cancelled_here; // by this very transaction
};

enum class IfLocked { wait, raise };

// Inside internal_begin(): finds the delivery, checks that `caller` manages its subscription and then locks
// its row until the end of the transaction, waiting for whoever has it (or WH008). WH003 when it is unknown
// or somebody else's, in the same words. 40001 when other sessions kept moving it.
FoundDelivery find_delivery(Oid caller, const pg_uuid_t *uuid, IfLocked if_locked = IfLocked::wait);

// WH008: somebody else is sending it at this moment.
[[noreturn]] void raise_being_sent(const pg_uuid_t *uuid);

// Inside internal_begin(): the ids of all subscriptions that `caller` manages, ended ones included, as
// bigint[]; null when these are all there are (the caller is an admin). palloc'ed where SPI's memory is.
ArrayType *managed_subscriptions(Oid caller);

// Inside internal_begin(): is that subscription there, and the caller's? WH001 otherwise, in the same words.
void check_subscription(Oid caller, int64 subscription_id);

// The text of a uuid for a message, palloc'ed.
const char *uuid_text(const pg_uuid_t *uuid);

} // namespace whisperer::pg
