#include "pg/prelude.hpp"

#include "pg/internal_sql.hpp"
#include "pg/privileges.hpp"

extern "C" {
#include "lib/stringinfo.h"
#include "utils/builtins.h"
}

namespace whisperer::pg {

namespace {

constexpr unsigned DELIVER = 1u << static_cast<unsigned>(Access::deliver);
constexpr unsigned SUBSCRIBE = 1u << static_cast<unsigned>(Access::subscribe);
constexpr unsigned MONITOR = 1u << static_cast<unsigned>(Access::monitor);
constexpr unsigned ADMIN = 1u << static_cast<unsigned>(Access::admin);

struct Needed {
    const char *name;
    unsigned levels;
};

// Functions, all of a name. What is not in the list is for admins, who may execute everything.
constexpr Needed functions[] = {
    {"deliver_event", DELIVER | SUBSCRIBE},
    {"deliver_event_trigger", DELIVER | SUBSCRIBE}, // to create triggers, not for them to fire
    {"attach", DELIVER | SUBSCRIBE},
    {"detach", DELIVER | SUBSCRIBE},
    {"wait_until_settled", DELIVER | SUBSCRIBE},
    {"countdown_preview", DELIVER | SUBSCRIBE},
    {"update_event_type", DELIVER | SUBSCRIBE}, // of types that they own
    {"unregister_event_type", DELIVER | SUBSCRIBE},
    {"subscribe", SUBSCRIBE},
    {"update_subscription", SUBSCRIBE},
    {"unsubscribe", SUBSCRIBE},
    {"retry", SUBSCRIBE},
    {"retry_failed", SUBSCRIBE},
    {"cancel", SUBSCRIBE},
    // Of the views and policies.
    {"owner_name", SUBSCRIBE | MONITOR},
    {"owner_is_gone", SUBSCRIBE | MONITOR},
    {"relation_of", SUBSCRIBE | MONITOR},
    {"in_flight_list", SUBSCRIBE | MONITOR},
    {"may_see", SUBSCRIBE | MONITOR},
    {"may_see_event_type", SUBSCRIBE | MONITOR},
    {"visible_subscriptions", SUBSCRIBE | MONITOR},
    {"shown_url", SUBSCRIBE | MONITOR},
    {"shown_headers", SUBSCRIBE | MONITOR},
    {"shown_body", SUBSCRIBE | MONITOR},
    {"shown_response", SUBSCRIBE | MONITOR},
    {"shown_reason", SUBSCRIBE | MONITOR},
    {"shown_failure", SUBSCRIBE | MONITOR},
    {"worker_list", MONITOR},
    {"statistics_row", MONITOR},
};

// Views, besides that monitors and admins see all of them.
constexpr Needed views[] = {
    {"webhook_events", SUBSCRIBE},    {"pending", SUBSCRIBE},       {"failed", SUBSCRIBE},
    {"event_types", SUBSCRIBE},       {"subscriptions", SUBSCRIBE}, {"subscription_health", SUBSCRIBE},
    {"function_failures", SUBSCRIBE}, {"countdowns", SUBSCRIBE},
};

// What the views read of the tables, which have row-level security (but for custom_countdown, a list for
// all); what is not here is shown by shown_…().
constexpr const char *columns[][2] = {
    {"event_type_entry",
     "event_type, owner_oid, owner_name, owner_system, serializer, customizer, description, created_date"},
    {"subscription",
     "id, owner_oid, owner_name, owner_system, owner_dropped, event_type, callback,"
     " retry_countdown_config, config, has_secret, auth_type, is_active, inactive_reason, ended_date,"
     " created_date, modified_date"},
    {"subscription_state",
     "subscription_id, consecutive_failures, paused_until, last_status, last_error, modified_date"},
    {"delivery",
     "uuid, subscription_id, due, not_before, attempts, event_type, relation_schema, relation_name,"
     " response_http_status, response_time, error, request_datetimes, created_date, modified_date"},
    {"history",
     "uuid, subscription_id, state, attempts, event_type, relation_schema, relation_name,"
     " response_http_status, response_time, error, request_datetimes, created_date, modified_date"},
    {"custom_countdown", "choice, countdown, validator, owner_oid, owner_name, owner_system, created_date"},
    {"function_failure", "subscription_id, uuid, attempt, kind, function, sqlstate, occurred"},
};

bool needs(const Needed *list, size_t count, const char *name, unsigned levels) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return (list[i].levels & levels) != 0;
    return false;
}

void run(const char *sql) {
    int rc = SPI_execute(sql, false, 0);
    if (rc < 0)
        elog(ERROR, "whisperer could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}

// A query for (name, how GRANT is to call it): of all, those that are wanted, with commas between; null if
// there are none.
const char *wanted(Statement *all, const Needed *list, size_t count, unsigned levels, unsigned everything) {
    StringInfoData names;
    initStringInfo(&names);
    uint64 rows = internal_execute(all, nullptr);
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        const char *name = TextDatumGetCString(spi_value(i, 1, &is_null));
        if ((levels & everything) == 0 && !needs(list, count, name, levels))
            continue;
        appendStringInfo(&names, "%s%s", names.len == 0 ? "" : ", ",
                         TextDatumGetCString(spi_value(i, 2, &is_null)));
    }
    return names.len == 0 ? nullptr : names.data;
}

} // namespace

void privileges_grant(Oid role, unsigned levels) {
    static Statement all_functions = {
        "SELECT proname::text, oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc"
        " WHERE pronamespace = 'whisperer'::pg_catalog.regnamespace AND prokind = 'f' ORDER BY 2",
        0,
        {},
        nullptr};
    static Statement all_views = {
        "SELECT relname::text, oid::pg_catalog.regclass::text FROM pg_catalog.pg_class"
        " WHERE relnamespace = 'whisperer'::pg_catalog.regnamespace AND relkind = 'v' ORDER BY 2",
        0,
        {},
        nullptr};
    if (levels == 0)
        return;
    const char *to = quote_identifier(GetUserNameFromId(role, false));
    run(psprintf("GRANT USAGE ON SCHEMA whisperer TO %s", to));
    const char *names = wanted(&all_functions, functions, lengthof(functions), levels, ADMIN);
    if (names != nullptr)
        run(psprintf("GRANT EXECUTE ON FUNCTION %s TO %s", names, to));
    names = wanted(&all_views, views, lengthof(views), levels, MONITOR | ADMIN);
    if (names == nullptr)
        return;
    run(psprintf("GRANT SELECT ON %s TO %s", names, to));
    for (const char *const(&table)[2] : columns)
        run(psprintf("GRANT SELECT (%s) ON whisperer.%s TO %s", table[1], table[0], to));
}

void privileges_renew(Oid role, unsigned levels) {
    const char *of = quote_identifier(GetUserNameFromId(role, false));
    run(psprintf("REVOKE ALL ON ALL TABLES IN SCHEMA whisperer FROM %s", of));
    run(psprintf("REVOKE ALL ON ALL ROUTINES IN SCHEMA whisperer FROM %s", of));
    run(psprintf("REVOKE ALL ON SCHEMA whisperer FROM %s", of));
    privileges_grant(role, levels);
}

} // namespace whisperer::pg
