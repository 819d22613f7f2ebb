// Settings, and the connections made under them: see Generation.
#include "core/http_engine_impl.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string_view>
#include <sys/stat.h>

namespace whisperer::core {

namespace {

bool same(const AddressPolicy &a, const AddressPolicy &b) noexcept {
    return a.allowed_count == b.allowed_count &&
           std::equal(a.allowed, a.allowed + a.allowed_count, b.allowed,
                      [](const Network &x, const Network &y) {
                          return x.prefix == y.prefix && x.address.v6 == y.address.v6 &&
                                 std::memcmp(x.address.bytes.data(), y.address.bytes.data(),
                                             x.address.v6 ? 16 : 4) == 0;
                      });
}

// The file that these settings make libcurl read.
FileVersion certificates(const std::string &ca_file) noexcept {
    return FileVersion::of(ca_file.empty() ? system_ca_file() : ca_file.c_str());
}

} // namespace

FileVersion FileVersion::of(const char *path) noexcept {
    struct stat found {};
    if (path == nullptr || stat(path, &found) != 0)
        return {};
    return {found.st_dev, found.st_ino, found.st_size, found.st_ctim.tv_sec, found.st_ctim.tv_nsec};
}

bool FileVersion::operator==(const FileVersion &other) const noexcept {
    return device == other.device && inode == other.inode && size == other.size && seconds == other.seconds &&
           nanoseconds == other.nanoseconds;
}

void Pin::write_entry() {
    entry = host + ':' + std::to_string(port) + ':';
    for (size_t i = 0; i < usable.size(); i++) {
        char text[64];
        format_address(usable[i], text, sizeof text);
        if (i > 0)
            entry.push_back(',');
        entry.append(text);
    }
    version++;
}

void Pin::demote_first() {
    if (usable.size() < 2)
        return;
    std::rotate(usable.begin(), usable.begin() + 1, usable.end());
    write_entry();
}

Pin &Generation::pin(const std::string &host, uint16_t port, const Resolver::Addresses &answer,
                     bool for_proxy) {
    // The proxy may be named like a receiver, but its address is not judged: apart from the others by the
    // blank.
    Pin &pin = pins[(for_proxy ? " " : "") + host + ':' + std::to_string(port)];
    if (pin.answer == answer)
        return pin;
    pin.answer.reset(); // should memory run out in here, it is done again
    pin.usable.clear();
    for (const Address &address : *answer) {
        if (for_proxy || judge(policy, address) == AddressVerdict::allowed)
            pin.usable.push_back(address);
        else
            pin.refused = address;
    }
    pin.host = host;
    pin.port = port;
    pin.write_entry();
    pin.answer = answer;
    return pin;
}

std::unique_ptr<Generation> Engine::make_generation(const EngineSettings &settings) {
    auto generation = std::make_unique<Generation>();
    if (settings.policy != nullptr)
        generation->policy = *settings.policy;
    generation->ca_file = settings.ca_file.view();
    generation->certificates = certificates(generation->ca_file);
    generation->proxy = settings.proxy.view();
    generation->max_connections = settings.max_connections;
    if (!generation->proxy.empty() && !split_url(settings.proxy, &generation->proxy_parts))
        throw std::runtime_error("the proxy is not a URL");
    open_multi(*generation);
    return generation;
}

std::unique_ptr<Generation> Engine::make_generation(const Generation &like) {
    auto generation = std::make_unique<Generation>();
    generation->policy = like.policy;
    generation->ca_file = like.ca_file;
    generation->certificates = certificates(generation->ca_file);
    generation->proxy = like.proxy;
    generation->proxy_parts = like.proxy_parts;
    generation->max_connections = like.max_connections;
    open_multi(*generation);
    return generation;
}

void Engine::open_multi(Generation &generation) {
    generation.engine = this;
    generation.id = ++last_generation_;
    generation.multi = curl_multi_init();
    if (generation.multi == nullptr)
        throw std::bad_alloc();
    const auto connections = static_cast<long>(std::clamp<size_t>(generation.max_connections, 1, 1 << 20));
    const bool ok =
        curl_multi_setopt(generation.multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK &&
        curl_multi_setopt(generation.multi, CURLMOPT_SOCKETDATA, &generation) == CURLM_OK &&
        curl_multi_setopt(generation.multi, CURLMOPT_TIMERFUNCTION, on_timer) == CURLM_OK &&
        curl_multi_setopt(generation.multi, CURLMOPT_TIMERDATA, &generation) == CURLM_OK &&
        curl_multi_setopt(generation.multi, CURLMOPT_PIPELINING, long{CURLPIPE_MULTIPLEX}) == CURLM_OK &&
        curl_multi_setopt(generation.multi, CURLMOPT_MAXCONNECTS, connections) == CURLM_OK;
    if (!ok)
        throw std::runtime_error("curl_multi_setopt failed");
}

Generation::~Generation() {
    if (multi != nullptr)
        curl_multi_cleanup(multi);
}

// The last one steps back: its idle connections are ended now, the busy ones with their requests.
void Engine::replace_generation(std::unique_ptr<Generation> fresh) {
    generations_.push_back(std::move(fresh));
    if (generations_.size() < 2)
        return;
    Generation &old = *generations_[generations_.size() - 2];
    old.current = false;
    for (Transfer *transfer : deadlines_.all())
        if (transfer->generation == &old && transfer->attached)
            curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L);
    sockets_.shut_down_idle(&old);
    drop_drained();
}

void Engine::drop_drained() noexcept {
    if (generations_.size() < 2)
        return;
    const auto drained = [](const std::unique_ptr<Generation> &generation) {
        return !generation->current && generation->users == 0;
    };
    generations_.erase(std::remove_if(generations_.begin(), generations_.end(), drained), generations_.end());
}

void Engine::configure(const EngineSettings &settings) {
    const Generation &current = *generations_.back();
    const AddressPolicy none{};
    if (same(settings.policy != nullptr ? *settings.policy : none, current.policy) &&
        settings.ca_file.view() == current.ca_file && settings.proxy.view() == current.proxy &&
        settings.max_connections == current.max_connections &&
        certificates(current.ca_file) == current.certificates)
        return;
    replace_generation(make_generation(settings));
}

} // namespace whisperer::core
