// whisperer.deliver_event(): one event, raised by SQL.
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/enqueue.hpp"
#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/relation_name.hpp"
#include "pg/resend.hpp"
#include "pg/subscription_fields.hpp"
#include "pg/sync_delivery.hpp"

extern "C" {
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"
}

namespace whisperer::pg {

namespace {

// The arguments after the instance, which both SQL forms share.
struct Request {
    const char *event_type;
    Jsonb *config_filter;
    bool now;                // not _async
    const pg_uuid_t *resend; // event_uuid, or null
};

Request read_request(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(1))
        raise_null_argument("event_type", "Give the name of a registered event type.");
    if (PG_ARGISNULL(2))
        raise_null_argument("_async", "true delivers after the commit, in the background.");
    Request request = {text_to_cstring(PG_GETARG_TEXT_PP(1)),
                       PG_ARGISNULL(4) ? nullptr : PG_GETARG_JSONB_P(4), !PG_GETARG_BOOL(2),
                       PG_ARGISNULL(3) ? nullptr : PG_GETARG_UUID_P(3)};
    if (request.config_filter != nullptr)
        check_config_filter(request.config_filter);
    return request;
}

// The table whose row type this is, if it is one.
void set_relation_of_type(EventOrigin *origin, Oid type) {
    Oid relation = get_typ_typrelid(getBaseType(type));
    if (OidIsValid(relation) && get_rel_relkind(relation) != RELKIND_COMPOSITE_TYPE)
        relation_name_of(relation, &origin->relation_schema, &origin->relation_name);
}

Datum uuid_array(const pg_uuid_t *uuids, int count) {
    if (count == 0)
        return PointerGetDatum(construct_empty_array(UUIDOID));
    Datum *values = (Datum *)palloc(sizeof(Datum) * (size_t)count);
    for (int i = 0; i < count; i++)
        values[i] = UUIDPGetDatum(&uuids[i]);
    return array_of(values, nullptr, (size_t)count, UUIDOID);
}

Datum deliver(const Request &request, const EventOrigin &origin, const Recipients &recipients,
              const PayloadText &payload) {
    if (request.now)
        check_may_deliver_now();
    pg_uuid_t *uuids = enqueue_events(origin, recipients, &payload, 1);
    if (request.now)
        deliver_now(uuids, recipients.count);
    return uuid_array(uuids, recipients.count);
}

Datum resend(Oid caller, const Request &request) {
    access_check(caller, Access::deliver, request.event_type);
    resend_delivery(caller, request.resend, request.event_type, request.now);
    return uuid_array(request.resend, 1);
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

WHISPERER_SQL_FUNCTION(whisperer_deliver_event) {
    Oid caller = GetUserId();
    Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);
    if (OidIsValid(type))
        type = getBaseType(type); // a domain's value is a value of what the domain is over
    Request request = read_request(fcinfo);
    if (request.resend != nullptr)
        PG_RETURN_DATUM(resend(caller, request));
    if (PG_ARGISNULL(0))
        raise_null_argument("instance", "Give a row, or a JSON object.");
    if (!OidIsValid(type) || !serializable_type(type))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("instance must be a row or a JSON object, not %s",
                       OidIsValid(type) ? format_type_be(type) : "a value of unknown type"),
                errhint("Give a row, such as deliver_event(package, ...) in a SELECT from it, or jsonb."));
    access_check(caller, Access::deliver, request.event_type);
    require_writable("whisperer.deliver_event()"); // whether anybody subscribes or not
    Recipients recipients = find_recipients(request.event_type, request.config_filter);
    if (recipients.count == 0) {
        // What is wrong with the value is said whether anybody subscribes or not, as far as that costs
        // nothing.
        if (type == JSONBOID || type == JSONOID)
            (void)serialize_default(PG_GETARG_DATUM(0), type);
        PG_RETURN_DATUM(uuid_array(nullptr, 0));
    }
    EventOrigin origin = {request.event_type, nullptr, nullptr};
    set_relation_of_type(&origin, type);
    PayloadText payload = payload_of_instance(recipients.functions, PG_GETARG_DATUM(0), type);
    PG_RETURN_DATUM(deliver(request, origin, recipients, payload));
}

WHISPERER_SQL_FUNCTION(whisperer_deliver_event_text) {
    Oid caller = GetUserId();
    Request request = read_request(fcinfo);
    if (request.resend != nullptr)
        PG_RETURN_DATUM(resend(caller, request));
    if (PG_ARGISNULL(0))
        raise_null_argument("instance", "Give a row, or a JSON object.");
    access_check(caller, Access::deliver, request.event_type);
    require_writable("whisperer.deliver_event()"); // whether anybody subscribes or not
    Jsonb *instance = parse_json_object(text_to_cstring(PG_GETARG_TEXT_PP(0)), "instance");
    Recipients recipients = find_recipients(request.event_type, request.config_filter);
    if (recipients.count == 0)
        PG_RETURN_DATUM(uuid_array(nullptr, 0));
    EventOrigin origin = {request.event_type, nullptr, nullptr};
    PayloadText payload = payload_of_instance(recipients.functions, JsonbPGetDatum(instance), JSONBOID);
    PG_RETURN_DATUM(deliver(request, origin, recipients, payload));
}
