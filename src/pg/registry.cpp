// whisperer.register_event_type(), update_event_type(), unregister_event_type().
#include "pg/prelude.hpp"

#include "pg/access.hpp"
#include "pg/errors.hpp"
#include "pg/function_names.hpp"
#include "pg/grants.hpp"
#include "pg/home.hpp"
#include "pg/internal_sql.hpp"
#include "pg/jsonb_input.hpp"
#include "pg/registry.hpp"
#include "pg/subscription_fields.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *name_hint = "Give the name of an event type, such as 'package-created'.";

const char *event_type_argument(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(0))
        raise_null_argument("event_type", name_hint);
    const char *event_type = text_to_cstring(PG_GETARG_TEXT_PP(0));
    check_event_type_name(event_type);
    return event_type;
}

// Finds a function by the caller's search_path and checks that `owner`, as whom it will run, may execute it.
const char *stored_function(FunctionUse use, const char *name, Oid owner) {
    if (name == nullptr)
        return nullptr;
    Oid function = function_find(use, name);
    function_check_runner(use, function, owner);
    return function_stored_name(function);
}

Datum text_or_null(const char *text, char *null) {
    *null = text == nullptr ? 'n' : ' ';
    return text == nullptr ? (Datum)0 : CStringGetTextDatum(text);
}

void check_description(const char *description) {
    constexpr size_t longest = 65536;
    core::FieldError error;
    if (description == nullptr || strlen(description) <= longest)
        return;
    core::set_field_error(&error, "description", "is longer than 65536 bytes",
                          "Shorten it, or say in it where to read on.");
    raise_field_error(error);
}

// ---- update_event_type

struct EventTypeChanges {
    bool given[3];
    const char *values[3]; // null: removed
};

constexpr const char *change_keys[3] = {"serializer", "customizer", "description"};

[[noreturn]] void refuse_change(const char *fact) {
    core::FieldError error;
    core::set_field_error(&error, "changes", utf8_slice(fact).view(),
                          "Give an object with the keys serializer, customizer, description; null removes.");
    raise_field_error(error);
}

EventTypeChanges read_changes(Jsonb *changes) {
    EventTypeChanges result = {};
    if (!json_is_object(changes))
        refuse_change(psprintf("is %s, not an object", json_kind(changes)));
    JsonMembers members = json_members(&changes->root);
    for (int i = 0; i < members.count; i++) {
        const JsonMember &member = members.items[i];
        int key = 0;
        while (key < 3 && strcmp(change_keys[key], member.key) != 0)
            key++;
        if (key == 3)
            refuse_change(psprintf("unknown key \"%s\"", member.key));
        if (member.value.type != jbvNull && member.value.type != jbvString)
            refuse_change(
                psprintf("the value of \"%s\" is %s, not a string", member.key, json_kind(member.value)));
        result.given[key] = true;
        result.values[key] = member.value.type == jbvString ? json_string(member.value) : nullptr;
    }
    check_description(result.values[2]);
    return result;
}

// The owner of a type; false when there is none of that name. InvalidOid: the owner is gone.
bool find_owner(Statement *statement, const char *event_type, Oid *owner) {
    Datum arguments[] = {CStringGetTextDatum(event_type)};
    if (internal_execute(statement, arguments) == 0)
        return false;
    bool is_null;
    Oid number = DatumGetObjectId(spi_value(0, 1, &is_null));
    const char *name = TextDatumGetCString(spi_value(0, 2, &is_null));
    *owner = owner_role(number, name, DatumGetInt64(spi_value(0, 3, &is_null)));
    return true;
}

// Admins may change every type, others those that are theirs: of the rest they do not learn whether there is
// one.
void check_may_change(Oid caller, const char *event_type) {
    static Statement look = {
        "SELECT owner_oid, owner_name, owner_system FROM whisperer.event_type_entry WHERE event_type = $1",
        1,
        {TEXTOID},
        nullptr};
    Oid owner = InvalidOid;
    InternalSql internal;
    internal_begin(&internal);
    (void)find_owner(&look, event_type, &owner);
    internal_end(&internal);
    if (!access_owns(caller, owner))
        access_check(caller, Access::admin, event_type);
}

// Locks the row until the end of the transaction. WH004 if there is none; 42501 if meanwhile it has become
// somebody else's. InvalidOid: the owner is gone.
Oid lock_event_type(Oid caller, const char *event_type) {
    static Statement lock = {"SELECT owner_oid, owner_name, owner_system FROM whisperer.event_type_entry"
                             " WHERE event_type = $1 FOR UPDATE",
                             1,
                             {TEXTOID},
                             nullptr};
    Oid owner;
    if (!find_owner(&lock, event_type, &owner))
        raise_no_event_type(event_type);
    if (!access_owns(caller, owner))
        access_check(caller, Access::admin, event_type);
    return owner;
}

// Serializer and customizer run as the type's owner: whoever names one must have that role's privileges,
// admin or not.
void check_new_function(Oid caller, const char *event_type, FunctionUse use, Oid function, Oid owner) {
    if (!OidIsValid(owner))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("the owner of event type \"%s\" does not exist", event_type),
                errhint("Unregister the event type, and register it again."));
    if (!has_privs_of_role(caller, owner))
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("permission denied for event type \"%s\"", event_type),
                errdetail("The function would run as the owner, \"%s\", whose privileges \"%s\" has not.",
                          GetUserNameFromId(owner, false), GetUserNameFromId(caller, false)),
                errhint("Let the owner set it."));
    function_check_runner(use, function, owner);
}

void update_event_type(Oid caller, const char *event_type, const EventTypeChanges &changes) {
    static Statement update = {
        "UPDATE whisperer.event_type_entry SET serializer = CASE WHEN $2 THEN $3 ELSE serializer END,"
        " customizer = CASE WHEN $4 THEN $5 ELSE customizer END,"
        " description = CASE WHEN $6 THEN $7 ELSE description END WHERE event_type = $1",
        7,
        {TEXTOID, BOOLOID, TEXTOID, BOOLOID, TEXTOID, BOOLOID, TEXTOID},
        nullptr};
    constexpr FunctionUse uses[2] = {FunctionUse::serializer, FunctionUse::customizer};
    Oid functions[2] = {InvalidOid, InvalidOid};
    const char *values[3] = {nullptr, nullptr, changes.values[2]};
    for (int i = 0; i < 2; i++)
        if (changes.values[i] != nullptr) {
            functions[i] = function_find(uses[i], changes.values[i]);
            values[i] = function_stored_name(functions[i]);
        }
    InternalSql internal;
    internal_begin(&internal);
    Oid owner = lock_event_type(caller, event_type);
    for (int i = 0; i < 2; i++)
        if (OidIsValid(functions[i]))
            check_new_function(caller, event_type, uses[i], functions[i], owner);
    Datum arguments[7] = {CStringGetTextDatum(event_type)};
    char nulls[] = "       ";
    for (int i = 0; i < 3; i++) {
        arguments[1 + 2 * i] = BoolGetDatum(changes.given[i]);
        arguments[2 + 2 * i] = text_or_null(values[i], &nulls[2 + 2 * i]);
    }
    internal_execute(&update, arguments, nulls);
    internal_end(&internal);
}

// ---- unregister_event_type

[[noreturn]] void raise_in_use(const char *event_type, const char *detail, const char *hint) {
    ereport(ERROR, errcode(ERRCODE_OBJECT_IN_USE), errmsg("event type \"%s\" is in use", event_type),
            errdetail_internal("%s", detail), errhint("%s", hint));
}

// The event type is locked: whoever wants to use it waits for us or has committed, which only a snapshot of
// this moment is sure to see.
void check_unused(const char *event_type) {
    static Statement subscriptions = {
        "SELECT pg_catalog.min(id), pg_catalog.count(*) FROM whisperer.subscription"
        " WHERE event_type = $1 AND is_active AND ended_date IS NULL",
        1,
        {TEXTOID},
        nullptr};
    static Statement triggers = {
        "SELECT pg_catalog.format('trigger %I on %s', t.tgname, t.tgrelid::pg_catalog.regclass)"
        " FROM pg_catalog.pg_trigger t WHERE t.tgfoid = 'whisperer.deliver_event_trigger'::pg_catalog.regproc"
        " AND t.tgparentid = 0 AND t.tgnargs > 0"
        " AND pg_catalog.substr(t.tgargs, 1, pg_catalog.position(t.tgargs, pg_catalog.decode('00', 'hex')) - "
        "1) ="
        " pg_catalog.convert_to($1, pg_catalog.getdatabaseencoding()) ORDER BY 1",
        1,
        {TEXTOID},
        nullptr};
    Datum arguments[] = {CStringGetTextDatum(event_type)};
    Snapshot now = RegisterSnapshot(GetLatestSnapshot());
    bool is_null;
    internal_execute_snapshot(&subscriptions, arguments, nullptr, now);
    int64 first = DatumGetInt64(spi_value(0, 1, &is_null));
    int64 count = DatumGetInt64(spi_value(0, 2, &is_null));
    if (count > 0)
        raise_in_use(event_type,
                     psprintf("Active subscriptions to it: " INT64_FORMAT ", among them number " INT64_FORMAT
                              ".",
                              count, first),
                     "End or pause them first; whisperer.subscriptions lists them.");
    if (internal_execute_snapshot(&triggers, arguments, nullptr, now) > 0)
        raise_in_use(event_type,
                     psprintf("It is named by %s.", TextDatumGetCString(spi_value(0, 1, &is_null))),
                     "Call whisperer.detach() for the table, or drop the trigger.");
    UnregisterSnapshot(now);
}

void unregister_event_type(Oid caller, const char *event_type) {
    static Statement remove = {
        "DELETE FROM whisperer.event_type_entry WHERE event_type = $1", 1, {TEXTOID}, nullptr};
    Datum arguments[] = {CStringGetTextDatum(event_type)};
    InternalSql internal;
    internal_begin(&internal);
    (void)lock_event_type(caller, event_type);
    check_unused(event_type);
    internal_execute(&remove, arguments);
    grants_forget_event_type(event_type);
    internal_end(&internal);
}

} // namespace

void raise_no_event_type(const char *event_type) {
    ereport(ERROR, errcode(ERRCODE_WH_NO_EVENT_TYPE),
            errmsg("event type \"%s\" is not registered", shortened(event_type)),
            errhint("Register it with whisperer.register_event_type(); whisperer.event_types lists those "
                    "there are."));
}

bool event_type_hold(const char *event_type) {
    static Statement hold = {"SELECT 1 FROM whisperer.event_type_entry WHERE event_type = $1 FOR KEY SHARE",
                             1,
                             {TEXTOID},
                             nullptr};
    Datum arguments[] = {CStringGetTextDatum(event_type)};
    return internal_execute(&hold, arguments) > 0;
}

void event_type_register(const char *event_type, Oid owner, const EventTypeFields &fields) {
    static Statement insert = {
        "INSERT INTO whisperer.event_type_entry (event_type, owner_oid, owner_name, owner_system, "
        "serializer, customizer,"
        " description) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (event_type) DO NOTHING",
        7,
        {TEXTOID, OIDOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID},
        nullptr};
    home_stamp();
    char nulls[] = "       ";
    Datum arguments[] = {CStringGetTextDatum(event_type),
                         ObjectIdGetDatum(owner),
                         CStringGetTextDatum(GetUserNameFromId(owner, false)),
                         Int64GetDatum(home_system()),
                         text_or_null(fields.serializer, &nulls[4]),
                         text_or_null(fields.customizer, &nulls[5]),
                         text_or_null(fields.description, &nulls[6])};
    if (internal_execute(&insert, arguments, nulls) == 0)
        ereport(ERROR, errcode(ERRCODE_WH_DUPLICATE_EVENT_TYPE),
                errmsg("event type \"%s\" is already registered", event_type),
                errhint("Change it with whisperer.update_event_type()."));
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.register_event_type(event_type, serializer, customizer, description)
WHISPERER_SQL_FUNCTION(whisperer_register_event_type) {
    Oid caller = GetUserId();
    const char *event_type = event_type_argument(fcinfo);
    access_check(caller, Access::admin, event_type);
    require_writable("whisperer.register_event_type()");
    const char *texts[3];
    for (int i = 0; i < 3; i++)
        texts[i] = PG_ARGISNULL(i + 1) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(i + 1));
    check_description(texts[2]);
    EventTypeFields fields = {stored_function(FunctionUse::serializer, texts[0], caller),
                              stored_function(FunctionUse::customizer, texts[1], caller), texts[2]};
    InternalSql internal;
    internal_begin(&internal);
    event_type_register(event_type, caller, fields);
    internal_end(&internal);
    PG_RETURN_VOID();
}

// whisperer.update_event_type(event_type, changes)
WHISPERER_SQL_FUNCTION(whisperer_update_event_type) {
    Oid caller = GetUserId();
    const char *event_type = event_type_argument(fcinfo);
    require_writable("whisperer.update_event_type()");
    check_may_change(caller, event_type);
    if (PG_ARGISNULL(1))
        raise_null_argument("changes", "Give an object with the keys serializer, customizer, description.");
    update_event_type(caller, event_type, read_changes(PG_GETARG_JSONB_P(1)));
    PG_RETURN_VOID();
}

// whisperer.unregister_event_type(event_type)
WHISPERER_SQL_FUNCTION(whisperer_unregister_event_type) {
    Oid caller = GetUserId();
    const char *event_type = event_type_argument(fcinfo);
    require_writable("whisperer.unregister_event_type()");
    check_may_change(caller, event_type);
    unregister_event_type(caller, event_type);
    PG_RETURN_VOID();
}
