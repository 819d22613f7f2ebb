#include "core/request_builder.hpp"

#include "core/envelope.hpp"
#include "core/signing.hpp"

#include <new>
#include <strings.h>

namespace whisperer::core {

namespace {

// Does the line "Name: value" have this name?
bool is_header(Slice line, std::string_view name) noexcept {
    return line.len > name.size() && line.data[name.size()] == ':' &&
           strncasecmp(line.data, name.data(), name.size()) == 0;
}

bool user_sets(const RequestParts &parts, std::string_view name) noexcept {
    for (size_t i = 0; i < parts.user_header_count; i++)
        if (is_header(parts.user_headers[i], name))
            return true;
    return false;
}

} // namespace

void RequestBuilder::add(std::string_view name, std::string_view value) {
    text_.append(name).append(": ").append(value);
    ends_.push_back(text_.size());
}

bool RequestBuilder::build(const RequestParts &parts) noexcept {
    cannot_sign_ = false;
    try {
        text_.clear();
        ends_.clear();
        lines_.clear();
        if (parts.whole_body)
            body_.assign(parts.payload.view());
        else {
            body_.resize(envelope_size(parts.event_type, parts.payload.len));
            write_envelope(parts.event_type, parts.uuid, parts.payload, body_.data());
        }

        char id[uuid_text_size];
        format_uuid(parts.uuid, id);
        // The user may say what the body is and who sends it, not which event it is.
        if (!user_sets(parts, "Content-Type"))
            add("Content-Type", "application/json");
        if (!user_sets(parts, "User-Agent"))
            add("User-Agent", parts.user_agent.view());
        add("X-Whisperer-Event", parts.event_type.view());
        add("webhook-id", id);
        add("webhook-timestamp", std::to_string(parts.unix_seconds));
        if (parts.has_secret) {
            char by_body[body_signature_size];
            char by_webhook[webhook_signature_size];
            cannot_sign_ = !sign_body(parts.secret, body(), by_body) ||
                           !sign_webhook(parts.secret, slice(id), parts.unix_seconds, body(), by_webhook);
            if (cannot_sign_)
                return false;
            add("X-Whisperer-Signature", by_body);
            add("webhook-signature", by_webhook);
        }
        for (size_t i = 0; i < parts.user_header_count; i++) {
            if (!parts.authorization.empty() && is_header(parts.user_headers[i], "Authorization"))
                continue;
            text_.append(parts.user_headers[i].view());
            ends_.push_back(text_.size());
        }
        if (!parts.authorization.empty())
            add("Authorization", parts.authorization.view());

        size_t begin = 0;
        for (size_t end : ends_) {
            lines_.push_back(Slice{text_.data() + begin, end - begin});
            begin = end;
        }
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

} // namespace whisperer::core
