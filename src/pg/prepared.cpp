#include "pg/prelude.hpp"

#include "pg/prepared.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
}

namespace whisperer::pg {

namespace {

constexpr const char *indexes[] = {"subscription_by_change", "subscription_unique",
                                   "subscription_secret_pkey"};
constexpr int kinds = sizeof(indexes) / sizeof(indexes[0]);

Oid watched[kinds]; // InvalidOid: whatever changes may be this
uint32 heard = 0;

void on_change(Datum, Oid relation) {
    for (int kind = 0; kind < kinds; kind++)
        if (!OidIsValid(relation) || !OidIsValid(watched[kind]) || relation == watched[kind])
            heard |= UINT32_C(1) << kind;
}

// InvalidOid: there is none; the extension may have been dropped by this very transaction.
Oid find_index(int kind) {
    Oid schema = get_namespace_oid("whisperer", true);
    return OidIsValid(schema) ? get_relname_relid(indexes[kind], schema) : InvalidOid;
}

} // namespace

void prepared_note(uint32 news) {
    for (int kind = 0; kind < kinds; kind++) {
        Oid index = (news >> kind & 1) != 0 ? find_index(kind) : InvalidOid;
        if (OidIsValid(index))
            CacheInvalidateRelcacheByRelid(index);
    }
}

void prepared_watch() {
    for (int kind = 0; kind < kinds; kind++)
        watched[kind] = find_index(kind);
    heard = 0;
}

uint32 prepared_heard() {
    AcceptInvalidationMessages(); // one's own come this way, too
    uint32 news = heard;
    heard = 0;
    return news != 0 && !OidIsValid(watched[0]) ? news | PREPARED_UNKNOWN : news;
}

void prepared_init() {
    CacheRegisterRelcacheCallback(on_change, (Datum)0);
}

} // namespace whisperer::pg
