#include "core/address_policy.hpp"

#include <algorithm>
#include <cstring>

namespace whisperer::core {

namespace {

struct Block {
    uint8_t start[16]; // v4 blocks use the first four bytes
    int prefix;
    const char *kind;
};

// IANA IPv4 Special-Purpose Address Registry, but for the blocks it calls globally reachable (192.31.196.0/24
// and 192.175.48.0/24 AS112, 192.52.193.0/24 AMT); 192.0.0.9 and 192.0.0.10 reach the local network's own
// relays, so they are refused with the rest of theirs. Multicast: RFC 5771.
constexpr Block v4_blocks[] = {
    {{0}, 8, "unspecified"},
    {{10}, 8, "private"},
    {{100, 64}, 10, "shared"},
    {{127}, 8, "loopback"},
    {{169, 254}, 16, "link-local"},
    {{172, 16}, 12, "private"},
    {{192, 0, 0}, 24, "reserved"},
    {{192, 0, 2}, 24, "documentation"},
    {{192, 88, 99}, 24, "reserved"}, // 6to4 relays, deprecated by RFC 7526
    {{192, 168}, 16, "private"},
    {{198, 18}, 15, "benchmark"},
    {{198, 51, 100}, 24, "documentation"},
    {{203, 0, 113}, 24, "documentation"},
    {{224}, 4, "multicast"},
    {{255, 255, 255, 255}, 32, "broadcast"}, // before the block it lies in
    {{240}, 4, "reserved"},
};

// IANA IPv6 Special-Purpose Address Registry and the Internet Protocol Version 6 Address Space registry. The
// first match counts; what matches nothing and is outside 2000::/3 is reserved. 2001::/23 is refused whole:
// what the registry calls globally reachable in it (anycast to local relays, AMT, AS112, ORCHIDv2, DRIP) is
// nobody's web server.
constexpr Block v6_blocks[] = {
    {{}, 128, "unspecified"},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128, "loopback"},
    {{}, 96, "v4-compatible"},
    {{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}, 48, "local NAT64"},
    {{0x01, 0x00}, 64, "discard-only"},
    {{0x20, 0x01, 0x00, 0x00}, 32, "Teredo"},
    {{0x20, 0x01, 0x00, 0x02, 0x00, 0x00}, 48, "benchmark"},
    {{0x20, 0x01, 0x00}, 23, "reserved"},
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "documentation"},
    {{0x3f, 0xff, 0x00}, 20, "documentation"},
    {{0x5f, 0x00}, 16, "reserved"}, // segment routing identifiers
    {{0xfc}, 7, "private"},
    {{0xfe, 0x80}, 10, "link-local"},
    {{0xfe, 0xc0}, 10, "private"}, // site-local, deprecated by RFC 3879
    {{0xff}, 8, "multicast"},
};
constexpr Block v6_global = {{0x20}, 3, nullptr};

// Forms of v6 addresses with a v4 address in them.
struct Form {
    uint8_t start[16];
    int prefix;
    size_t offset; // of the v4 address, in bytes
    bool judged;   // as the v4 address; otherwise refused, though an allowed v4 network opens it
};
constexpr Form v4_forms[] = {
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96, 12, true}, // v4-mapped, RFC 4291
    {{0x00, 0x64, 0xff, 0x9b}, 96, 12, true},                   // NAT64, RFC 6052
    {{0x20, 0x02}, 16, 2, true},                                // 6to4, RFC 3056
    {{}, 96, 12, false},                                        // v4-compatible, RFC 4291
};

bool starts_with(const uint8_t *address, const uint8_t *start, int prefix) {
    int whole = prefix / 8;
    int rest = prefix % 8;
    if (whole > 0 && memcmp(address, start, static_cast<size_t>(whole)) != 0)
        return false;
    return rest == 0 || ((address[whole] ^ start[whole]) >> (8 - rest)) == 0;
}

template <size_t count> const char *find_kind(const Block (&blocks)[count], const uint8_t *address) {
    for (const Block &block : blocks)
        if (starts_with(address, block.start, block.prefix))
            return block.kind;
    return nullptr;
}

// The form of a v6 address that has a v4 address in it, or null. "::" and "::1" are v6 addresses of their
// own.
const Form *find_form(const Address &address) {
    if (!address.v6)
        return nullptr;
    const uint8_t *bytes = address.bytes.data();
    if (starts_with(bytes, v6_blocks[0].start, 128) || starts_with(bytes, v6_blocks[1].start, 128))
        return nullptr;
    for (const Form &form : v4_forms)
        if (starts_with(bytes, form.start, form.prefix))
            return &form;
    return nullptr;
}

Address hidden_v4(const Address &address, const Form &form) {
    Address v4{};
    std::copy_n(address.bytes.begin() + form.offset, 4, v4.bytes.begin());
    return v4;
}

bool contains(const Network &network, const Address &address) {
    int bits = network.address.v6 ? 128 : 32;
    return network.address.v6 == address.v6 && network.prefix >= 0 && network.prefix <= bits &&
           starts_with(address.bytes.data(), network.address.bytes.data(), network.prefix);
}

bool opened(const AddressPolicy &policy, const Address &address) {
    const Form *form = find_form(address);
    Address v4 = form != nullptr ? hidden_v4(address, *form) : Address{};
    size_t count = std::min(policy.allowed_count, AddressPolicy::max_allowed);
    for (size_t i = 0; i < count; i++) {
        const Network &network = policy.allowed[i];
        if (form == nullptr
                ? contains(network, address)
                : contains(network, v4) || (contains(network, address) && network.prefix >= form->prefix))
            return true;
    }
    return false;
}

} // namespace

const char *special_kind(const Address &address) noexcept {
    const uint8_t *bytes = address.bytes.data();
    if (!address.v6)
        return find_kind(v4_blocks, bytes);
    const Form *form = find_form(address);
    if (form != nullptr && (form->judged || find_kind(v4_blocks, bytes + form->offset) != nullptr))
        return find_kind(v4_blocks, bytes + form->offset);
    const char *kind = find_kind(v6_blocks, bytes);
    if (kind == nullptr && !starts_with(bytes, v6_global.start, v6_global.prefix))
        kind = "reserved";
    return kind;
}

AddressVerdict judge(const AddressPolicy &policy, const Address &address) noexcept {
    return special_kind(address) == nullptr || opened(policy, address) ? AddressVerdict::allowed
                                                                       : AddressVerdict::refused;
}

} // namespace whisperer::core
