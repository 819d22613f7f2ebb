// Writing events and their deliveries, in the caller's transaction. The one place that inserts into
// whisperer.delivery.
#pragma once

#include "pg/prelude.hpp"
#include "pg/recipients.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace whisperer::pg {

// What the events of one batch have in common. Relation: of the row, both null if it has none.
struct EventOrigin {
    const char *event_type;
    const char *relation_schema;
    const char *relation_name;
};

// Inserts `count` events for the recipients, each with the body that the customizer makes, if there is one,
// and notes the wake-up at commit. Returns the deliveries' uuids in the order event by event, recipient by
// recipient (palloc'ed, count × recipients.count).
pg_uuid_t *enqueue_events(const EventOrigin &origin, const Recipients &recipients,
                          const PayloadText *payloads, int count);

// whisperer.trigger_errors = record: one event, a settled delivery per recipient, failed, without a body. The
// error, which may tell of the data, is kept as its reason, which monitors do not see; 8 kB of it at most.
void enqueue_failed(const EventOrigin &origin, const Recipients &recipients, const char *error);

// A new UUIDv7 for event or delivery.
pg_uuid_t new_uuid();

} // namespace whisperer::pg
