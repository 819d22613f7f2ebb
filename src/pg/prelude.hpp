// The first include of every file in src/pg. C++ and core headers come before postgres.h, whose macros would
// eat names such as ERROR, LOG, Min and snprintf; afterwards core headers may no longer be included
// (core/no_postgres.hpp says so).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Core headers that the shell uses. Only headers, only plain data and noexcept calls.
#include "core/address_policy.hpp"
#include "core/ca_file.hpp"
#include "core/change_cursor.hpp"
#include "core/countdown.hpp"
#include "core/envelope.hpp"
#include "core/field_error.hpp"
#include "core/headers.hpp"
#include "core/http_engine.hpp"
#include "core/networks.hpp"
#include "core/outbox.hpp"
#include "core/response_headers.hpp"
#include "core/response_text.hpp"
#include "core/retry_after.hpp"
#include "core/sending_thread.hpp"
#include "core/signing.hpp"
#include "core/slice.hpp"
#include "core/url.hpp"
#include "core/utf8.hpp"
#include "core/uuid7.hpp"
#include "core/verdict.hpp"

extern "C" {
#include "postgres.h" // before all others

#include "fmgr.h"
#include "miscadmin.h"
}

// The only symbols that leave the library are _PG_init, the workers' entry points and the SQL functions.
#define WHISPERER_EXPORT extern "C" __attribute__((visibility("default")))

// Declares and exports one SQL-callable function; follow it with the body.
//   WHISPERER_SQL_FUNCTION(whisperer_subscribe) { ... PG_RETURN_INT64(id); }
#define WHISPERER_SQL_FUNCTION(name)                                                                         \
    extern "C" {                                                                                             \
    __attribute__((visibility("default"))) Datum name(PG_FUNCTION_ARGS);                                     \
    __attribute__((visibility("default"))) const Pg_finfo_record *pg_finfo_##name(void);                     \
    const Pg_finfo_record *pg_finfo_##name(void) {                                                           \
        static const Pg_finfo_record info = {1};                                                             \
        return &info;                                                                                        \
    }                                                                                                        \
    }                                                                                                        \
    Datum name(PG_FUNCTION_ARGS)
