#include "pg/prelude.hpp"

#include "pg/settings.hpp"

#include "pg/compat.hpp"
#include "pg/roster.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
}

namespace whisperer::pg {

bool setting_enabled = true;
int setting_max_attempts = 18;
int setting_max_payload_size = 1024 * 1024;
int setting_trigger_errors = TRIGGER_ERRORS_ERROR;
int setting_workers = 1;
int setting_max_in_flight = 256;
int setting_max_in_flight_per_subscription = 32;
int setting_max_response_size = 64 * 1024;
int setting_callback_timeout = 5000;
int setting_safety_scan_interval = 60;
int setting_max_databases = 64;
char *setting_ca_file = nullptr;
char *setting_proxy = nullptr;

namespace {

char *request_timeout_text = nullptr;
char *retention_text = nullptr;
char *allowed_networks_text = nullptr;

RequestTimeout request_timeout_value = {10.0, 10.0};
int64 retention_value = 0;
core::AddressPolicy allowed_networks_value = {};

constexpr double longest_request_timeout = 3600.0; // seconds

const struct config_enum_entry trigger_errors_values[] = {
    {"error", TRIGGER_ERRORS_ERROR, false}, {"record", TRIGGER_ERRORS_RECORD, false}, {nullptr, 0, false}};

const char *skip_spaces(const char *p) {
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

// Digits with at most one point; no sign, exponent, "inf" or hexadecimal. Moves *p behind it.
bool read_seconds(const char **p, double *result) {
    const char *start = skip_spaces(*p);
    const char *end = start;
    int digits = 0;
    int points = 0;
    for (; (*end >= '0' && *end <= '9') || *end == '.'; end++)
        *end == '.' ? points++ : digits++;
    if (digits == 0 || points > 1)
        return false;
    *result = strtod(start, nullptr);
    *p = skip_spaces(end);
    return true;
}

bool check_request_timeout(char **value, void **extra, GucSource) {
    RequestTimeout parsed;
    const char *message = nullptr;
    if (!parse_request_timeout(*value, &parsed, &message)) {
        GUC_check_errdetail("%s", message);
        GUC_check_errhint(
            "Give seconds, such as 10 or 2.5, or two numbers for connect and response, such as 5,10.");
        return false;
    }
    auto *copy = static_cast<RequestTimeout *>(compat_guc_malloc(sizeof(RequestTimeout)));
    if (copy == nullptr)
        return false;
    *copy = parsed;
    *extra = copy;
    return true;
}

void assign_request_timeout(const char *, void *extra) {
    if (extra != nullptr)
        request_timeout_value = *static_cast<RequestTimeout *>(extra);
}

// Without ereport: a check hook must answer, not raise. A month counts as 30 days, as everywhere in
// PostgreSQL where an interval becomes a number.
bool parse_retention(const char *text, int64 *result) {
    char work[256];
    char *fields[MAXDATEFIELDS];
    int types[MAXDATEFIELDS];
    int count = 0;
    int kind = 0;
    struct pg_itm_in parts = {};
    int error = ParseDateTime(text, work, sizeof(work), fields, types, MAXDATEFIELDS, &count);
    if (error == 0)
        error = DecodeInterval(fields, types, count, INTERVAL_FULL_RANGE, &kind, &parts);
    if (error == DTERR_BAD_FORMAT && strlen(text) < sizeof(work)) { // as interval_in() does: perhaps P12W
        strlcpy(work, text, sizeof(work));
        parts = {};
        error = DecodeISO8601Interval(work, &kind, &parts);
    }
    if (error != 0 || kind != DTK_DELTA)
        return false;
    int64 days =
        static_cast<int64>(parts.tm_year) * 360 + static_cast<int64>(parts.tm_mon) * 30 + parts.tm_mday;
    int64 whole;
    if (__builtin_mul_overflow(days, USECS_PER_DAY, &whole) ||
        __builtin_add_overflow(whole, parts.tm_usec, result))
        return false;
    return true;
}

// interval_in() takes a number without a unit for seconds, which nobody means here.
bool has_no_unit(const char *text) {
    char *end = nullptr;
    (void)strtod(text, &end);
    return end != text && end[strspn(end, " \t\r\n")] == '\0';
}

bool check_retention(char **value, void **extra, GucSource) {
    int64 parsed = 0;
    if (!parse_retention(*value, &parsed)) {
        GUC_check_errdetail("It is not an interval.");
        GUC_check_errhint("Give an interval such as 12 weeks or 90 days; 0 keeps everything.");
        return false;
    }
    if (parsed != 0 && has_no_unit(*value)) {
        GUC_check_errdetail("It has no unit.");
        GUC_check_errhint("Give an interval such as 12 weeks or 90 days; 0 keeps everything.");
        return false;
    }
    if (parsed < 0) {
        GUC_check_errdetail("It must not be negative.");
        GUC_check_errhint("Use 0 to keep everything.");
        return false;
    }
    // Further back than any timestamp goes there is nothing to remove; later arithmetic must not overflow.
    constexpr int64 longest = INT64CONST(5000) * 360 * USECS_PER_DAY;
    if (parsed > longest) {
        GUC_check_errdetail("It must not be longer than 5000 years.");
        GUC_check_errhint("Use 0 to keep everything.");
        return false;
    }
    auto *copy = static_cast<int64 *>(compat_guc_malloc(sizeof(int64)));
    if (copy == nullptr)
        return false;
    *copy = parsed;
    *extra = copy;
    return true;
}

void assign_retention(const char *, void *extra) {
    if (extra != nullptr)
        retention_value = *static_cast<int64 *>(extra);
}

// Core messages go on after a colon; a DETAIL is a sentence.
void detail_from(const core::FieldError &error) {
    GUC_check_errdetail("%c%s.", pg_toupper(static_cast<unsigned char>(error.message[0])), error.message + 1);
}

bool check_allowed_networks(char **value, void **extra, GucSource) {
    auto *policy = static_cast<core::AddressPolicy *>(compat_guc_malloc(sizeof(core::AddressPolicy)));
    if (policy == nullptr)
        return false;
    memset(static_cast<void *>(policy), 0, sizeof(*policy));
    core::FieldError error = {};
    if (!core::parse_networks(core::Slice{*value, strlen(*value)}, policy, &error)) {
        compat_guc_free(policy);
        detail_from(error);
        if (error.hint[0] != '\0')
            GUC_check_errhint("%s", error.hint);
        return false;
    }
    *extra = policy;
    return true;
}

void assign_allowed_networks(const char *, void *extra) {
    if (extra != nullptr)
        allowed_networks_value = *static_cast<core::AddressPolicy *>(extra);
}

bool check_ca_file(char **value, void **, GucSource) {
    if (**value == '\0' || is_absolute_path(*value))
        return true;
    GUC_check_errdetail("It must be an absolute path.");
    GUC_check_errhint("Give the path of a PEM file, or an empty string for the system's certificate store.");
    return false;
}

// "http://host:port", nothing else: no path, no user name. What a host may be is the engine's business.
bool check_proxy(char **value, void **, GucSource) {
    if (**value == '\0')
        return true;
    core::FieldError error = {};
    const char *text = *value;
    size_t length = strlen(text);
    if (!core::check_url(core::Slice{text, length}, &error, "whisperer.proxy")) {
        detail_from(error);
        GUC_check_errhint("Give it as http://host:port.");
        return false;
    }
    const char *host = pg_strncasecmp(text, "http://", 7) == 0 ? text + 7 : nullptr;
    const char *colon = host == nullptr ? nullptr : strrchr(host, ':');
    bool shaped = colon != nullptr && colon[1] != '\0' &&
                  strspn(colon + 1, "0123456789") == strlen(colon + 1) &&
                  strcspn(host, "/?#@") == strlen(host);
    if (shaped)
        return true;
    GUC_check_errdetail("It is not of the form http://host:port.");
    GUC_check_errhint("Give scheme, host and port only, for instance http://proxy.example.com:3128.");
    return false;
}

void define_string(const char *name, const char *brief, const char *full, char **variable, const char *boot,
                   GucContext context, GucStringCheckHook check, GucStringAssignHook assign) {
    DefineCustomStringVariable(name, brief, full, variable, boot, context, 0, check, assign, nullptr);
}

void define_int(const char *name, const char *brief, const char *full, int *variable, int boot, int least,
                int most, GucContext context, int flags) {
    DefineCustomIntVariable(name, brief, full, variable, boot, least, most, context, flags, nullptr, nullptr,
                            nullptr);
}

void define_session_settings() {
    DefineCustomBoolVariable(
        "whisperer.enabled", "Whether deliveries are sent.",
        "When off, nothing is sent and no background job runs; events are still recorded and go "
        "out when it is on again.",
        &setting_enabled, true, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    define_string(
        "whisperer.request_timeout", "Time allowed for one request, in seconds.",
        "One number holds for connecting and for the response each; two, as in 5,10, are for connecting and "
        "for the response with its whole body.",
        &request_timeout_text, "10", PGC_SUSET, check_request_timeout, assign_request_timeout);
    define_int("whisperer.max_attempts", "Attempts made for a delivery before it counts as failed.",
               "A subscription's config.max_attempts takes precedence.", &setting_max_attempts, 18, 1, 1000,
               PGC_SUSET, 0);
    define_int("whisperer.max_payload_size", "Largest payload of an event.",
               "Raising an event with a larger one is an error.", &setting_max_payload_size, 1024 * 1024,
               1024, 256 * 1024 * 1024, PGC_SUSET, GUC_UNIT_BYTE);
    DefineCustomEnumVariable(
        "whisperer.trigger_errors", "What a trigger does when it cannot raise its event.",
        "error fails the statement that fired it; record lets the statement go on and records a "
        "failed delivery with the reason.",
        &setting_trigger_errors, TRIGGER_ERRORS_ERROR, trigger_errors_values, PGC_SUSET, 0, nullptr, nullptr,
        nullptr);
}

void define_worker_settings() {
    define_int(
        "whisperer.workers", "Delivery workers of each database that has the extension.",
        "Each takes one of max_worker_processes. A change stops a database's workers and starts the new set.",
        &setting_workers, 1, 1, max_shards, PGC_SIGHUP, 0);
    define_int("whisperer.max_in_flight", "Requests that one delivery worker has under way at most.",
               "What is waiting stays in its table until there is room.", &setting_max_in_flight, 256, 1,
               4096, PGC_SIGHUP, 0);
    define_int("whisperer.max_in_flight_per_subscription",
               "Requests that are under way to one subscription at most.",
               "A subscription's config.max_in_flight takes precedence.",
               &setting_max_in_flight_per_subscription, 32, 1, 4096, PGC_SIGHUP, 0);
    define_int("whisperer.max_response_size", "Part of a response's body that is kept.",
               "What comes after is not read.", &setting_max_response_size, 64 * 1024, 0, 16 * 1024 * 1024,
               PGC_SIGHUP, GUC_UNIT_BYTE);
    define_string("whisperer.retention", "How long settled deliveries are kept.",
                  "An interval such as 12 weeks, counted from the settlement; 0 keeps them for ever.",
                  &retention_text, "12 weeks", PGC_SIGHUP, check_retention, assign_retention);
    define_string(
        "whisperer.allowed_networks", "Networks requests may go to although they are not public.",
        "CIDR blocks separated by commas. Loopback, private, link-local and other special addresses are "
        "refused unless they are in one of these.",
        &allowed_networks_text, "", PGC_SIGHUP, check_allowed_networks, assign_allowed_networks);
    define_string("whisperer.ca_file", "Certificates that receivers are verified with.",
                  "Absolute path of a PEM file; empty for the system's certificate store.", &setting_ca_file,
                  "", PGC_SIGHUP, check_ca_file, nullptr);
    define_string("whisperer.proxy", "Proxy that requests go through.",
                  "As http://host:port; empty for none. The proxy variables of the environment are ignored.",
                  &setting_proxy, "", PGC_SIGHUP, check_proxy, nullptr);
    define_int("whisperer.callback_timeout", "Time allowed for one call of a callback.",
               "One that takes longer is cancelled, and the reason recorded.", &setting_callback_timeout,
               5000, 10, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS);
    define_int("whisperer.safety_scan_interval", "Time between two searches for work nobody announced.",
               "Work is announced when it is committed; this is only the net below.",
               &setting_safety_scan_interval, 60, 1, 24 * 3600, PGC_SIGHUP, GUC_UNIT_S);
    define_int("whisperer.max_databases", "Databases of the server that can have the extension.",
               "Sizes shared memory.", &setting_max_databases, 64, 1, 10000, PGC_POSTMASTER, 0);
}

} // namespace

bool parse_request_timeout(const char *text, RequestTimeout *result, const char **message) {
    const char *p = skip_spaces(text);
    bool parenthesis = *p == '(';
    if (parenthesis)
        p++;
    double first = 0;
    double second = 0;
    bool good = read_seconds(&p, &first);
    second = first;
    if (good && *p == ',') {
        p++;
        good = read_seconds(&p, &second);
    } else if (parenthesis) {
        good = false;
    }
    if (good && parenthesis)
        good = *p++ == ')';
    if (!good || *skip_spaces(p) != '\0') {
        *message = "It is neither one number of seconds nor two.";
        return false;
    }
    if (first < 0.001 || second < 0.001 || first > longest_request_timeout ||
        second > longest_request_timeout) {
        *message = "Each number must be between 0.001 and 3600 seconds.";
        return false;
    }
    *result = {first, second};
    return true;
}

const RequestTimeout &setting_request_timeout() {
    return request_timeout_value;
}

const core::AddressPolicy &setting_allowed_networks() {
    return allowed_networks_value;
}

int64 setting_retention() {
    return retention_value;
}

void settings_init() {
    define_session_settings();
    define_worker_settings();
    MarkGUCPrefixReserved("whisperer");
}

} // namespace whisperer::pg
