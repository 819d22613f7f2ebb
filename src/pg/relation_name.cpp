#include "pg/prelude.hpp"

#include "pg/relation_name.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
}

namespace whisperer::pg {

void relation_name_of(Oid relation, const char **schema, const char **name) {
    *name = get_rel_name(relation);
    *schema = *name == nullptr ? nullptr : get_namespace_name(get_rel_namespace(relation));
    if (*schema == nullptr)
        *name = nullptr;
}

Oid relation_of_name(const char *schema, const char *name) {
    Oid nspoid = get_namespace_oid(schema, true);
    return OidIsValid(nspoid) ? get_relname_relid(name, nspoid) : InvalidOid;
}

} // namespace whisperer::pg

using namespace whisperer::pg;

// whisperer.relation_of(schema text, name text): for the views.
WHISPERER_SQL_FUNCTION(whisperer_relation_of) {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    Oid relation =
        relation_of_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
    if (!OidIsValid(relation))
        PG_RETURN_NULL();
    PG_RETURN_OID(relation);
}
