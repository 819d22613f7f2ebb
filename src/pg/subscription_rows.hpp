// Rows of whisperer.subscription and whisperer.subscription_secret. Everything here runs inside
// internal_begin()/internal_end().
#pragma once

#include "pg/internal_sql.hpp"
#include "pg/prelude.hpp"
#include "pg/subscription_fields.hpp"

extern "C" {
#include "utils/builtins.h"
}

namespace whisperer::pg {

// A subscription not ended, as far as these functions need it. Texts are in SPI's memory.
struct Subscription {
    int64 id;
    Oid owner; // InvalidOid: gone
    Oid owner_oid;
    const char *owner_name;
    int64 owner_system;
    const char *event_type;
    const char *target_url;
};

// Arguments of a statement, in the order of its parameters.
struct Arguments {
    static constexpr int most = Statement::max_arguments;
    Datum values[most];
    char nulls[most + 1];
    int count;

    void add(Datum value) {
        nulls[count] = ' ';
        values[count++] = value;
    }
    void add_null() {
        nulls[count] = 'n';
        values[count++] = (Datum)0;
    }
    void add_text(const char *text) { text == nullptr ? add_null() : add(CStringGetTextDatum(text)); }
    void add_jsonb(Jsonb *document) { document == nullptr ? add_null() : add(JsonbPGetDatum(document)); }
};

// The subscription, locked until the end of the transaction. WH001 when there is none, when it has ended,
// and, in the same words, when `caller` does not manage it; nobody can lock what is not theirs.
Subscription lock_subscription(Oid caller, int64 id);

// Executes a statement that makes or changes `wanted`, of which there may be only one; WH002 when there is
// another.
void write_unique_subscription(Statement *statement, Arguments *arguments, const Subscription &wanted);

// Writes secret_key and auth, as far as they are given.
void write_subscription_secrets(int64 id, const SubscriptionInput &input);

} // namespace whisperer::pg
