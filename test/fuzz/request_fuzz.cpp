// Whatever the event's name, the payload and the subscription: a body of the length announced, JSON that says
// the name, and header lines that are one field each.
#include "core/envelope.hpp"
#include "core/headers.hpp"
#include "core/json_member.hpp"
#include "core/request_builder.hpp"
#include "core/signing.hpp"
#include "fuzz.hpp"

#include <algorithm>
#include <vector>

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

namespace {

void check_envelope(std::string_view body, const RequestParts &parts) {
    require(body.size() == envelope_size(parts.event_type, parts.payload.len));
    constexpr std::string_view start = "{\"event\": ";
    constexpr std::string_view middle = "\"}, \"payload\": ";
    require(body.substr(0, start.size()) == start && body.back() == '}');
    const size_t payload_at = body.size() - 1 - parts.payload.len;
    require(body.substr(payload_at, parts.payload.len) == parts.payload.view());
    require(body.substr(payload_at - middle.size(), middle.size()) == middle);
    // The event's object is read back by the parser that reads the answers of others.
    const std::string_view event = body.substr(start.size(), payload_at - (middle.size() - 2) - start.size());
    std::string value;
    if (valid_utf8(parts.event_type)) {
        require(find_json_string(slice(event), "type", &value) == JsonFound::string);
        require(value == parts.event_type.view());
        char hex[uuid_hex_size];
        format_uuid_hex(parts.uuid, hex);
        require(find_json_string(slice(event), "uuid", &value) == JsonFound::string && value == hex);
    }
}

size_t lines_named(const RequestBuilder &builder, std::string_view name) {
    size_t count = 0;
    for (size_t i = 0; i < builder.header_count(); i++) {
        const std::string_view line = builder.headers()[i].view();
        count += line.size() > name.size() && line[name.size()] == ':' &&
                 strncasecmp(line.data(), name.data(), name.size()) == 0;
    }
    return count;
}

} // namespace

// Input: flags, uuid, time; then the event's name, secret, payload, authorization, and pairs of headers.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    RequestParts parts{};
    const uint8_t flags = input.byte();
    parts.whole_body = (flags & 1) != 0;
    for (uint8_t &byte : parts.uuid.bytes)
        byte = input.byte();
    parts.unix_seconds = input.number<int64_t>();
    parts.user_agent = slice("whisperer");
    parts.event_type = slice(input.text());
    parts.secret = slice(input.text());
    parts.has_secret = (flags & 2) != 0;
    parts.payload = slice(input.text());
    const std::string_view authorization = input.text();
    parts.authorization = slice(has_control_character(authorization) ? "" : authorization);
    std::vector<Header> headers;
    std::vector<std::string> lines;
    std::vector<Slice> slices;
    while (!input.empty() && headers.size() < 20) {
        const std::string_view name = input.text();
        headers.push_back({slice(name), slice(input.text())});
    }
    if (!check_headers(headers.data(), headers.size(), nullptr))
        headers.clear(); // such a subscription there cannot be
    for (const Header &header : headers)
        lines.push_back(std::string(header.name.view()) + ": " + std::string(header.value.view()));
    std::transform(lines.begin(), lines.end(), std::back_inserter(slices),
                   [](const std::string &line) { return slice(line); });
    parts.user_headers = slices.data();
    parts.user_header_count = slices.size();

    const bool good_secret = !parts.has_secret || check_secret(parts.secret, nullptr);
    static RequestBuilder builder; // reused, as the outbox does it
    require(builder.build(parts) == good_secret);
    if (!good_secret)
        return 0;
    if (parts.whole_body)
        require(builder.body().view() == parts.payload.view());
    else
        check_envelope(builder.body().view(), parts);
    const bool plain_type = !has_control_character(parts.event_type.view());
    for (size_t i = 0; plain_type && i < builder.header_count(); i++) {
        const std::string_view line = builder.headers()[i].view();
        require(line.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos);
        require(is_token(slice(line.substr(0, line.find(':')))));
    }
    for (const char *name :
         {"Content-Type", "User-Agent", "X-Whisperer-Event", "webhook-id", "webhook-timestamp"})
        require(lines_named(builder, name) == 1);
    for (const char *name : {"X-Whisperer-Signature", "webhook-signature"})
        require(lines_named(builder, name) == (parts.has_secret ? 1 : 0));
    require(lines_named(builder, "Authorization") <= 1);
    require(parts.authorization.empty() || lines_named(builder, "Authorization") == 1);
    return 0;
}
