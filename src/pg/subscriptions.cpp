// whisperer.subscribe(), update_subscription(), unsubscribe().
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/cancel.hpp"
#include "pg/custom_countdowns.hpp"
#include "pg/error_capture.hpp"
#include "pg/errors.hpp"
#include "pg/function_names.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/jsonb_input.hpp"
#include "pg/registry.hpp"
#include "pg/subscription_fields.hpp"
#include "pg/subscription_rows.hpp"
#include "pg/wake.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
}

namespace whisperer::pg {

namespace {

// ---- subscribe

const char *find_callback(const SubscriptionInput &input, Oid *function) {
    *function = InvalidOid;
    if (input.callback == nullptr)
        return nullptr;
    *function = function_find(FunctionUse::callback, input.callback);
    return function_stored_name(*function);
}

int64 insert_subscription(const Subscription &wanted, const SubscriptionInput &input, const char *callback) {
    static Statement insert = {
        "INSERT INTO whisperer.subscription (owner_oid, owner_name, owner_system, event_type, target_url,"
        " callback, retry_countdown_config, additional_headers, config, has_secret, auth_type)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id",
        11,
        {OIDOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, JSONBOID, BOOLOID, TEXTOID},
        nullptr};
    Arguments arguments = {};
    arguments.add(ObjectIdGetDatum(wanted.owner_oid));
    arguments.add_text(wanted.owner_name);
    arguments.add(Int64GetDatum(wanted.owner_system));
    arguments.add_text(wanted.event_type);
    arguments.add_text(wanted.target_url);
    arguments.add_text(callback);
    arguments.add_jsonb(input.retry_countdown_config);
    arguments.add_jsonb(input.additional_headers);
    arguments.add_jsonb(input.config);
    arguments.add(BoolGetDatum(input.secret_key != nullptr));
    arguments.add_text(input.auth_type);
    write_unique_subscription(&insert, &arguments, wanted);
    bool is_null;
    return DatumGetInt64(spi_value(0, 1, &is_null));
}

int64 subscribe(Oid caller, SubscriptionInput *input) {
    if (input->event_type == nullptr)
        raise_null_argument("event_type", "Give the name of a registered event type.");
    if (input->target_url == nullptr)
        raise_null_argument("target_url", "Give the URL that events are to be sent to.");
    check_subscription_input(input);
    Oid function;
    const char *callback = find_callback(*input, &function);
    access_check(caller, Access::subscribe, input->event_type);
    require_writable("whisperer.subscribe()");
    if (OidIsValid(function))
        function_check_runner(FunctionUse::callback, function, caller);
    input->retry_countdown_config = custom_countdown_accept(input->retry_countdown_config, caller);

    const char *owner_name = GetUserNameFromId(caller, false);
    Subscription wanted = {
        0, caller, caller, owner_name, home_system(), input->event_type, input->target_url};
    InternalSql internal;
    internal_begin(&internal);
    if (!event_type_hold(input->event_type))
        raise_no_event_type(input->event_type);
    home_stamp();
    int64 id = insert_subscription(wanted, *input, callback);
    write_subscription_secrets(id, *input);
    internal_end(&internal);
    wake_subscriptions();
    return id;
}

Jsonb *empty_object() {
    return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}

// ---- update_subscription, unsubscribe

void check_has_owner(const Subscription &subscription, const char *field) {
    if (!OidIsValid(subscription.owner))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("%s: the owner of subscription " INT64_FORMAT ", \"%s\", does not exist", field,
                       subscription.id, subscription.owner_name),
                errdetail("The subscription is held: nothing is sent for it, and what is raised is kept."),
                errhint("Give it another owner first, with whisperer.reassign()."));
}

// Callbacks, countdowns and validators run as the subscription's owner: whoever names one must have that
// role's privileges, admin or not.
void check_speaks_for_owner(Oid caller, const Subscription &subscription, const char *field) {
    check_has_owner(subscription, field);
    if (!has_privs_of_role(caller, subscription.owner))
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("%s: permission denied for subscription " INT64_FORMAT, field, subscription.id),
                errdetail("It would run as the owner, \"%s\", whose privileges \"%s\" has not.",
                          GetUserNameFromId(subscription.owner, false), GetUserNameFromId(caller, false)),
                errhint("Let the owner set it."));
}

void check_new_callback(Oid caller, const Subscription &subscription, Oid function) {
    check_speaks_for_owner(caller, subscription, "callback");
    function_check_runner(FunctionUse::callback, function, subscription.owner);
}

// Runs the validator as the owner, so outside internal_begin(), but with the subscription locked already.
void accept_new_countdown(Oid caller, int64 id, SubscriptionInput *input) {
    CustomChoice custom;
    if (!countdown_is_custom(input->retry_countdown_config, &custom))
        return;
    InternalSql internal;
    internal_begin(&internal);
    Subscription now = lock_subscription(caller, id);
    access_check(caller, Access::subscribe, now.event_type);
    check_speaks_for_owner(caller, now, "retry_countdown_config");
    Oid owner = now.owner;
    internal_end(&internal);
    input->retry_countdown_config = custom_countdown_accept(input->retry_countdown_config, owner);
}

void update_row(const Subscription &now, const SubscriptionInput &input, const char *callback) {
    static Statement update = {
        "UPDATE whisperer.subscription SET event_type = coalesce($2, event_type), target_url = coalesce($3, "
        "target_url),"
        " callback = CASE WHEN $4 THEN $5 ELSE callback END,"
        " retry_countdown_config = CASE WHEN $6 THEN $7 ELSE retry_countdown_config END,"
        " additional_headers = coalesce($8, additional_headers), config = coalesce($9, config),"
        " is_active = coalesce($10, is_active),"
        " inactive_reason = CASE WHEN $10 THEN NULL WHEN NOT $10 AND is_active THEN 'paused' ELSE "
        "inactive_reason END,"
        " has_secret = coalesce($11, has_secret), auth_type = CASE WHEN $12 THEN $13 ELSE auth_type END,"
        " modified_date = pg_catalog.now(), change_xid = pg_catalog.pg_current_xact_id() WHERE id = $1",
        13,
        {INT8OID, TEXTOID, TEXTOID, BOOLOID, TEXTOID, BOOLOID, JSONBOID, JSONBOID, JSONBOID, BOOLOID, BOOLOID,
         BOOLOID, TEXTOID},
        nullptr};
    Arguments arguments = {};
    arguments.add(Int64GetDatum(now.id));
    arguments.add_text(input.event_type);
    arguments.add_text(input.target_url);
    arguments.add(BoolGetDatum((input.given & FIELD_CALLBACK) != 0));
    arguments.add_text(callback);
    arguments.add(BoolGetDatum((input.given & FIELD_RETRY_COUNTDOWN_CONFIG) != 0));
    arguments.add_jsonb(input.retry_countdown_config);
    arguments.add_jsonb(input.additional_headers);
    arguments.add_jsonb(input.config);
    if ((input.given & FIELD_IS_ACTIVE) != 0)
        arguments.add(BoolGetDatum(input.is_active));
    else
        arguments.add_null();
    if ((input.given & FIELD_SECRET_KEY) != 0)
        arguments.add(BoolGetDatum(input.secret_key != nullptr));
    else
        arguments.add_null();
    arguments.add(BoolGetDatum((input.given & FIELD_AUTH) != 0));
    arguments.add_text(input.auth_type);
    Subscription wanted = now;
    if (input.event_type != nullptr)
        wanted.event_type = input.event_type;
    if (input.target_url != nullptr)
        wanted.target_url = input.target_url;
    write_unique_subscription(&update, &arguments, wanted);
}

void update_subscription(Oid caller, int64 id, SubscriptionInput *input) {
    check_subscription_input(input);
    require_writable("whisperer.update_subscription()");
    Oid function;
    const char *callback = find_callback(*input, &function);
    accept_new_countdown(caller, id, input);

    InternalSql internal;
    internal_begin(&internal);
    Subscription now = lock_subscription(caller, id);
    access_check(caller, Access::subscribe, now.event_type);
    if (input->event_type != nullptr && strcmp(input->event_type, now.event_type) != 0)
        access_check(caller, Access::subscribe, input->event_type);
    if (OidIsValid(function))
        check_new_callback(caller, now, function);
    bool resumes = (input->given & FIELD_IS_ACTIVE) != 0 && input->is_active;
    if (resumes)
        check_has_owner(now, "is_active");
    // A type may have been unregistered while the subscription was paused.
    bool needs_type = input->event_type != nullptr || resumes;
    const char *event_type = input->event_type != nullptr ? input->event_type : now.event_type;
    if (needs_type && !event_type_hold(event_type))
        raise_no_event_type(event_type);
    if (input->given != 0) {
        update_row(now, *input, callback);
        write_subscription_secrets(id, *input);
    }
    internal_end(&internal);
    if (input->given != 0)
        wake_subscriptions();
}

void unsubscribe(Oid caller, int64 id) {
    static Statement end = {
        "UPDATE whisperer.subscription SET ended_date = pg_catalog.now(), is_active = false,"
        " inactive_reason = 'unsubscribed', has_secret = false, modified_date = pg_catalog.now(),"
        " change_xid = pg_catalog.pg_current_xact_id() WHERE id = $1",
        1,
        {INT8OID},
        nullptr};
    // Nothing is ever sent for it again.
    static Statement forget = {
        "DELETE FROM whisperer.subscription_secret WHERE subscription_id = $1", 1, {INT8OID}, nullptr};
    Datum arguments[] = {Int64GetDatum(id)};
    require_writable("whisperer.unsubscribe()");
    InternalSql internal;
    internal_begin(&internal);
    (void)lock_subscription(caller, id);
    internal_execute(&end, arguments);
    internal_execute(&forget, arguments);
    (void)cancel_pending_of(id);
    internal_end(&internal);
    wake_subscriptions();
}

int64 subscription_argument(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(0))
        raise_null_argument("id", "Give the number that whisperer.subscribe() returned.");
    return PG_GETARG_INT64(0);
}

Jsonb *object_argument(FunctionCallInfo fcinfo, int number, const char *name,
                       const char *hint = "Give an object, such as {}.") {
    if (PG_ARGISNULL(number))
        raise_null_argument(name, hint);
    return PG_GETARG_JSONB_P(number);
}

} // namespace

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.subscribe(event_type, target_url, secret_key, callback, retry_countdown_config,
// additional_headers, config)
WHISPERER_SQL_FUNCTION(whisperer_subscribe) {
    Oid caller = GetUserId();
    StatementHider hider;
    hide_statement_begin(&hider);
    SubscriptionInput input = {};
    input.given = FIELD_EVENT_TYPE | FIELD_TARGET_URL | FIELD_SECRET_KEY | FIELD_CALLBACK |
                  FIELD_RETRY_COUNTDOWN_CONFIG | FIELD_ADDITIONAL_HEADERS | FIELD_CONFIG;
    char **texts[] = {&input.event_type, &input.target_url, &input.secret_key, &input.callback};
    for (int i = 0; i < 4; i++)
        if (!PG_ARGISNULL(i))
            *texts[i] = text_to_cstring(PG_GETARG_TEXT_PP(i));
    if (!PG_ARGISNULL(4))
        input.retry_countdown_config = PG_GETARG_JSONB_P(4);
    input.additional_headers = object_argument(fcinfo, 5, "additional_headers");
    input.config = object_argument(fcinfo, 6, "config");
    int64 id = subscribe(caller, &input);
    hide_statement_end(&hider);
    PG_RETURN_INT64(id);
}

// whisperer.subscribe(subscription jsonb)
WHISPERER_SQL_FUNCTION(whisperer_subscribe_jsonb) {
    Oid caller = GetUserId();
    StatementHider hider;
    hide_statement_begin(&hider);
    Jsonb *object =
        object_argument(fcinfo, 0, "subscription", "Give an object with event_type and target_url.");
    SubscriptionInput input = subscription_input_from_json(object, "subscription", false);
    require_subscription_keys(input, "subscription");
    if ((input.given & FIELD_ADDITIONAL_HEADERS) == 0)
        input.additional_headers = empty_object();
    if ((input.given & FIELD_CONFIG) == 0)
        input.config = empty_object();
    int64 id = subscribe(caller, &input);
    hide_statement_end(&hider);
    PG_RETURN_INT64(id);
}

// whisperer.update_subscription(id, changes)
WHISPERER_SQL_FUNCTION(whisperer_update_subscription) {
    Oid caller = GetUserId();
    StatementHider hider;
    hide_statement_begin(&hider);
    int64 id = subscription_argument(fcinfo);
    Jsonb *changes = object_argument(fcinfo, 1, "changes");
    SubscriptionInput input = subscription_input_from_json(changes, "changes", true);
    update_subscription(caller, id, &input);
    hide_statement_end(&hider);
    PG_RETURN_VOID();
}

// whisperer.unsubscribe(id)
WHISPERER_SQL_FUNCTION(whisperer_unsubscribe) {
    Oid caller = GetUserId();
    unsubscribe(caller, subscription_argument(fcinfo));
    PG_RETURN_VOID();
}
