#include "pg/prelude.hpp"

#include "pg/sender.hpp"
#include "pg/settings.hpp"

namespace whisperer::pg {

namespace {

core::Slice setting_text(const char *value) {
    return core::Slice{value, value == nullptr ? 0 : strlen(value)};
}

} // namespace

core::EngineSettings sender_engine_settings() {
    return core::EngineSettings{&setting_allowed_networks(), setting_text(setting_ca_file),
                                setting_text(setting_proxy), (size_t)setting_max_in_flight};
}

core::OutboxLimits sender_limits() {
    return core::OutboxLimits{setting_max_in_flight, setting_max_in_flight_per_subscription,
                              (size_t)setting_max_response_size};
}

core::Slice sender_user_agent() {
    static char agent[64];
    snprintf(agent, sizeof(agent), "whisperer/%s (PostgreSQL %d)", WHISPERER_VERSION, PG_VERSION_NUM / 10000);
    return setting_text(agent);
}

} // namespace whisperer::pg
