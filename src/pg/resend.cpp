#include "pg/prelude.hpp"

#include "pg/claims.hpp"
#include "pg/errors.hpp"
#include "pg/find_delivery.hpp"
#include "pg/internal_sql.hpp"
#include "pg/journal.hpp"
#include "pg/resend.hpp"
#include "pg/retry.hpp"
#include "pg/sync_delivery.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"
}

namespace whisperer::pg {

namespace {

Statement type_statement = {"SELECT event_type FROM whisperer.delivery WHERE uuid = $1"
                            " UNION ALL SELECT event_type FROM whisperer.history WHERE uuid = $1",
                            1,
                            {UUIDOID},
                            nullptr};

void check_type(const pg_uuid_t *uuid, const char *event_type) {
    Datum arguments[1] = {UUIDPGetDatum(uuid)};
    if (internal_execute(&type_statement, arguments) == 0)
        elog(ERROR, "whisperer lost delivery %s after locking it", uuid_text(uuid));
    bool is_null;
    const char *recorded = TextDatumGetCString(spi_value(0, 1, &is_null));
    if (strcmp(recorded, event_type) != 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("delivery %s is of event type \"%s\", not \"%s\"", uuid_text(uuid), recorded,
                       shortened(event_type)),
                errhint("Give the type that it was raised with: it is sent again as it was recorded."));
}

} // namespace

void resend_delivery(Oid caller, const pg_uuid_t *uuid, const char *event_type, bool now) {
    require_writable("whisperer.deliver_event()");
    if (now)
        check_may_deliver_now();
    InternalSql sql;
    internal_begin(&sql);
    FoundDelivery found = find_delivery(caller, uuid, IfLocked::raise);
    check_type(uuid, event_type);
    check_may_retry(found, uuid, false,
                    "whisperer.retry(event_uuid, force => true) sends it again, with the same uuid.");
    core::Uuid id;
    memcpy(id.bytes, uuid->data, sizeof(id.bytes));
    // First the claim, then the look into the journals: see claims.hpp.
    if ((now && !claim_delivery(id)) || journal_has(id))
        raise_being_sent(uuid);
    make_due(found, uuid);
    internal_end(&sql);
    if (now) {
        wake_recall(found.subscription_id);
        deliver_now(uuid, 1);
    }
}

} // namespace whisperer::pg
