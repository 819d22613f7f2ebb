// What is known of users' functions by their stored names, kept for the session. Used by user_function.cpp
// only.
#pragma once

#include "pg/prelude.hpp"
#include "pg/user_function.hpp"

namespace whisperer::pg {

struct KnownFunction {
    KnownFunction *next;
    char *name;
    uint64 generation; // of the catalogue it was read from; 0: of none
    Oid row;           // found by this type of row, not by its name; InvalidOid: by its name
    Oid oid;
    Oid schema;
    UserFunctionTypes types;
    // The look-up of the call, with what the function's language keeps in it. Some languages keep the state
    // of a call there: it is used again only within the subtransaction that made it (after an error that one
    // is gone), and not by a call within the call.
    MemoryContext memory;
    FmgrInfo lookup;
    bool looked_up;
    bool in_use;
    LocalTransactionId transaction;
    SubTransactionId subtransaction;
};

// Finds it, from what is kept where the catalogue has not changed since. To be called with all rights and
// search_path pinned. 42883 when it is not there, 42809 when it cannot be called for one value, 55000 when it
// is temporary.
KnownFunction *known_function(const UserFunction &function);

// What is kept of it, or null where that is nothing or outdated. Reads no catalogue.
const KnownFunction *known_function_kept(const UserFunction &function);

// The look-up to call it by; *shared when it is the one kept, which is to be marked in_use during the call.
FmgrInfo *known_function_lookup(KnownFunction *known, bool *shared);

// missing: what PostgreSQL says that is not there, if it is not the function itself.
[[noreturn]] void raise_function_gone(const UserFunction &function, const char *missing = nullptr);

} // namespace whisperer::pg
