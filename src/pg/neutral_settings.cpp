#include "pg/prelude.hpp"

#include "pg/neutral_settings.hpp"

extern "C" {
#include "utils/float.h"
#include "utils/guc.h"
}

namespace whisperer::pg {

namespace {

struct NeutralSetting {
    const char *name;
    const char *value;
};

// search_path, quote_all_identifiers: regclass and its like print names as these say.
constexpr NeutralSetting neutral_settings[] = {
    {"TimeZone", "UTC"},
    {"DateStyle", "ISO, MDY"},
    {"IntervalStyle", "iso_8601"},
    {"bytea_output", "hex"},
    {"lc_monetary", "C"},
    {"xmlbinary", "base64"},
    {"search_path", "pg_catalog, pg_temp"},
    {"quote_all_identifiers", "off"},
};

} // namespace

int neutral_settings_begin() {
    int level = NewGUCNestLevel();
    for (const NeutralSetting &setting : neutral_settings) {
        const char *now = GetConfigOption(setting.name, false, false);
        if (strcmp(now, setting.value) != 0)
            (void)set_config_option(setting.name, setting.value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
                                    true, 0, false);
    }
    // Any positive value means "shortest that is exact".
    if (extra_float_digits < 1)
        (void)set_config_option("extra_float_digits", "1", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
                                0, false);
    // What the function's own statements hold, the caller may not see.
    if (Debug_print_parse || Debug_print_rewritten || Debug_print_plan)
        for (const char *name : {"debug_print_parse", "debug_print_rewritten", "debug_print_plan"})
            (void)set_config_option(name, "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    return level;
}

void neutral_settings_end(int level) {
    AtEOXact_GUC(false, level);
}

} // namespace whisperer::pg
