#include "core/networks.hpp"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <string_view>

namespace whisperer::core {

namespace {

constexpr const char *format_hint =
    "Give CIDR blocks separated by commas, for instance 10.0.0.0/8, 192.168.1.7, fd00::/8.";

bool is_separator(char c) {
    return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// inet_pton knows exactly the usual forms: four decimal numbers, or RFC 4291's v6 text without a zone.
bool parse_address(std::string_view text, Address *address) {
    char buffer[INET6_ADDRSTRLEN];
    if (text.empty() || text.size() >= sizeof(buffer) || text.find('\0') != std::string_view::npos)
        return false;
    memcpy(buffer, text.data(), text.size());
    buffer[text.size()] = '\0';
    *address = Address{};
    address->v6 = text.find(':') != std::string_view::npos;
    return inet_pton(address->v6 ? AF_INET6 : AF_INET, buffer, address->bytes.data()) == 1;
}

bool parse_prefix(std::string_view text, int max, int *prefix) {
    if (text.empty() || text.size() > 3)
        return false;
    int value = 0;
    for (char c : text) {
        if (c < '0' || c > '9')
            return false;
        value = value * 10 + (c - '0');
    }
    *prefix = value;
    return value <= max;
}

// Clears what lies behind the prefix; was anything set there?
bool clear_host_bits(Network *network) {
    bool any = false;
    int size = network->address.v6 ? 16 : 4;
    for (int i = 0; i < size; i++) {
        int kept = network->prefix - 8 * i;
        int mask = kept >= 8 ? 0xFF : kept <= 0 ? 0 : (0xFF << (8 - kept)) & 0xFF;
        auto cleared = static_cast<uint8_t>(network->address.bytes[i] & mask);
        any = any || cleared != network->address.bytes[i];
        network->address.bytes[i] = cleared;
    }
    return any;
}

// ::ffff:10.0.0.0/104 is 10.0.0.0/8: the kernel dials the v4 address.
void unmap(Network *network) {
    constexpr uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (!network->address.v6 || network->prefix < 96 ||
        memcmp(network->address.bytes.data(), mapped, sizeof(mapped)) != 0)
        return;
    Network v4{};
    memcpy(v4.address.bytes.data(), network->address.bytes.data() + 12, 4);
    v4.prefix = network->prefix - 96;
    *network = v4;
}

bool refuse(FieldError *error, const char *field, std::string_view item, const char *why, const char *hint) {
    FixedText message;
    message.quote(item).add(" ").add(why);
    set_field_error(error, field, message.view(), hint);
    return false;
}

bool parse_network(std::string_view item, const char *field, Network *network, FieldError *error) {
    size_t slash = item.find('/');
    if (!parse_address(item.substr(0, slash), &network->address))
        return refuse(error, field, item, "is not an address or a CIDR block", format_hint);
    int bits = network->address.v6 ? 128 : 32;
    network->prefix = bits;
    if (slash != std::string_view::npos && !parse_prefix(item.substr(slash + 1), bits, &network->prefix))
        return refuse(error, field, item, "has a bad prefix length",
                      "It is 0 to 32 for IPv4 blocks, 0 to 128 for IPv6 ones.");
    if (clear_host_bits(network)) {
        char text[INET6_ADDRSTRLEN] = "";
        inet_ntop(network->address.v6 ? AF_INET6 : AF_INET, network->address.bytes.data(), text,
                  sizeof(text));
        char hint[128];
        snprintf(hint, sizeof(hint), "The block is %s/%d; a single address has no prefix length.", text,
                 network->prefix);
        return refuse(error, field, item, "has bits set behind its prefix", hint);
    }
    unmap(network);
    return true;
}

} // namespace

bool parse_networks(Slice text, AddressPolicy *policy, FieldError *error, const char *field) noexcept {
    AddressPolicy parsed{};
    std::string_view rest = text.view();
    while (!rest.empty()) {
        size_t size = 0;
        while (size < rest.size() && !is_separator(rest[size]))
            size++;
        std::string_view item = rest.substr(0, size);
        rest.remove_prefix(size < rest.size() ? size + 1 : size);
        if (item.empty())
            continue;
        if (parsed.allowed_count == AddressPolicy::max_allowed)
            return refuse(error, field, item, "is one block too many", "At most 256 blocks can be given.");
        if (!parse_network(item, field, &parsed.allowed[parsed.allowed_count], error))
            return false;
        parsed.allowed_count++;
    }
    *policy = parsed;
    return true;
}

} // namespace whisperer::core
