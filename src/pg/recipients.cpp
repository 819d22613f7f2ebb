#include "pg/prelude.hpp"

#include "pg/errors.hpp"
#include "pg/internal_sql.hpp"
#include "pg/own_table.hpp"
#include "pg/recipients.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
}

namespace whisperer::pg {

namespace {

// ---- Reading

enum FindColumn {
    FIND_SUBSCRIPTION = 1,
    FIND_SERIALIZER,
    FIND_CUSTOMIZER,
    FIND_OWNER_OID,
    FIND_OWNER_NAME,
    FIND_OWNER_SYSTEM
};

Statement find_statement = {
    "SELECT s.id, t.serializer, t.customizer, t.owner_oid, t.owner_name, t.owner_system FROM "
    "whisperer.event_type_entry t"
    " LEFT JOIN whisperer.subscription s ON s.event_type = t.event_type AND s.is_active"
    "  AND s.ended_date IS NULL AND ($2 IS NULL OR s.config OPERATOR(pg_catalog.@>) $2)"
    " WHERE t.event_type = $1",
    2,
    {TEXTOID, JSONBOID},
    nullptr};

const char *found_text(FindColumn column) {
    bool is_null;
    Datum value = spi_value(0, column, &is_null);
    return is_null ? nullptr : TextDatumGetCString(value);
}

// The owner is of no interest where there is nothing to run as it.
EventFunctions read_functions(const char *event_type) {
    EventFunctions result = {
        event_type, found_text(FIND_SERIALIZER), found_text(FIND_CUSTOMIZER), InvalidOid, nullptr, 0};
    if (result.serializer != nullptr || result.customizer != nullptr) {
        bool is_null;
        result.owner_oid = DatumGetObjectId(spi_value(0, FIND_OWNER_OID, &is_null));
        result.owner_name = found_text(FIND_OWNER_NAME);
        result.owner_system = DatumGetInt64(spi_value(0, FIND_OWNER_SYSTEM, &is_null));
    }
    return result;
}

Recipients read_recipients(const char *event_type, Jsonb *config_filter) {
    MemoryContext caller = CurrentMemoryContext;
    InternalSql sql;
    internal_begin(&sql);
    Datum arguments[2] = {CStringGetTextDatum(event_type), JsonbPGetDatum(config_filter)};
    uint64 rows = internal_execute(&find_statement, arguments, config_filter == nullptr ? " n" : nullptr);
    if (rows == 0)
        ereport(ERROR, errcode(ERRCODE_WH_NO_EVENT_TYPE),
                errmsg("event type \"%s\" is not registered", shortened(event_type)),
                errhint("Register it with whisperer.register_event_type(); whisperer.event_types lists those "
                        "there are."));
    MemoryContext internal = MemoryContextSwitchTo(caller);
    Recipients result = {(int64 *)palloc(sizeof(int64) * rows), 0, read_functions(event_type)};
    MemoryContextSwitchTo(internal);
    for (uint64 i = 0; i < rows; i++) {
        bool is_null;
        Datum id = spi_value(i, FIND_SUBSCRIPTION, &is_null);
        if (!is_null)
            result.subscriptions[result.count++] = DatumGetInt64(id);
    }
    internal_end(&sql);
    return result;
}

// ---- What is kept
//
// How changes are noticed: triggers on the two tables invalidate, by PostgreSQL's own messages, the index
// below, as if it had been altered. These messages arrive in every session when the change commits, by COMMIT
// PREPARED too, and in the session that made it also before, and when it is rolled back. It is an index so
// that nobody's plans, which depend on the tables only, are made anew.

constexpr const char *changes_index = "subscription_by_event_type";
constexpr const char *watched_names[] = {changes_index, "subscription", "event_type_entry"};
constexpr int watched_count = sizeof(watched_names) / sizeof(watched_names[0]);

constexpr uint32 buckets = 256;
constexpr int max_entries = 1000;
constexpr size_t max_kept = 100000; // subscriptions in all of them: less than a megabyte

struct Entry {
    Entry *next;
    const char *event_type;
    Jsonb *config_filter; // or null
    Recipients recipients;
};

MemoryContext memory = nullptr;
Entry *entries[buckets];
int entry_count = 0;
size_t kept = 0;
bool stale = false; // something has changed since
Oid watched[watched_count];
uint64 changes = 0; // of any relation

void on_change(Datum, Oid relation) {
    changes++;
    for (Oid one : watched)
        stale = stale || relation == one;
    stale = stale || !OidIsValid(relation);
}

void forget_all() {
    if (memory == nullptr)
        memory = AllocSetContextCreate(CacheMemoryContext, "whisperer recipients", ALLOCSET_DEFAULT_SIZES);
    memset(entries, 0, sizeof(entries));
    entry_count = 0;
    kept = 0;
    stale = false;
    MemoryContextReset(memory);
}

bool same_filter(const Jsonb *a, const Jsonb *b) {
    if (a == nullptr || b == nullptr)
        return a == b;
    return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

uint32 bucket_of(const char *event_type) {
    return hash_bytes((const unsigned char *)event_type, (int)strlen(event_type)) % buckets;
}

const Entry *find_entry(const char *event_type, const Jsonb *config_filter) {
    for (const Entry *entry = entries[bucket_of(event_type)]; entry != nullptr; entry = entry->next)
        if (strcmp(entry->event_type, event_type) == 0 && same_filter(entry->config_filter, config_filter))
            return entry;
    return nullptr;
}

const char *copy_text(const char *text) {
    return text == nullptr ? nullptr : pstrdup(text);
}

Recipients copy_of(const Recipients &from, const char *event_type) {
    Recipients result = from;
    size_t size = sizeof(int64) * (size_t)Max(from.count, 1);
    result.subscriptions = (int64 *)palloc(size);
    memcpy(result.subscriptions, from.subscriptions, sizeof(int64) * (size_t)from.count);
    result.functions.event_type = event_type;
    result.functions.serializer = copy_text(from.functions.serializer);
    result.functions.customizer = copy_text(from.functions.customizer);
    result.functions.owner_name = copy_text(from.functions.owner_name);
    return result;
}

void keep(const char *event_type, const Jsonb *config_filter, const Recipients &recipients) {
    size_t count = (size_t)recipients.count;
    if (count > max_kept)
        return;
    if (entry_count == max_entries || kept + count > max_kept)
        forget_all();
    MemoryContext old = MemoryContextSwitchTo(memory);
    Entry *entry = (Entry *)palloc0(sizeof(Entry));
    entry->event_type = pstrdup(event_type);
    if (config_filter != nullptr) {
        entry->config_filter = (Jsonb *)palloc(VARSIZE(config_filter));
        memcpy(entry->config_filter, config_filter, VARSIZE(config_filter));
    }
    entry->recipients = copy_of(recipients, entry->event_type);
    MemoryContextSwitchTo(old);
    Entry **bucket = &entries[bucket_of(event_type)];
    entry->next = *bucket;
    *bucket = entry;
    entry_count++;
    kept += count;
}

} // namespace

Recipients find_recipients(const char *event_type, Jsonb *config_filter) {
    // A transaction with one snapshot for all its statements shall not see what was subscribed since.
    if (IsolationUsesXactSnapshot())
        return read_recipients(event_type, config_filter);
    AcceptInvalidationMessages(); // no lock need have been taken since the transaction's last statement
    if (memory == nullptr || stale)
        forget_all();
    const Entry *entry = find_entry(event_type, config_filter);
    if (entry != nullptr)
        return copy_of(entry->recipients, event_type);

    // Not kept if anything changes meanwhile: the snapshot may be older than that.
    uint64 changes_before = changes;
    for (int i = 0; i < watched_count; i++)
        watched[i] = own_relation(watched_names[i]);
    Recipients result = read_recipients(event_type, config_filter);
    if (changes == changes_before)
        keep(event_type, config_filter, result);
    return result;
}

void recipients_init() {
    CacheRegisterRelcacheCallback(on_change, (Datum)0);
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.recipients_changed(): trigger on subscription and event_type_entry.
WHISPERER_SQL_FUNCTION(whisperer_recipients_changed) {
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                errmsg("whisperer.recipients_changed() can only be called as a trigger"));
    CacheInvalidateRelcacheByRelid(own_relation(changes_index));
    return PointerGetDatum(nullptr);
}
