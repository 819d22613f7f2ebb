// The same as http_engine_fuzz.cpp with HTTP/2: TLS is spoken as it should be, and the frames behind it are
// the fuzzer's. The same must hold; nobody is answered whose request has not begun.
#include "engine_owner.hpp"

using namespace whisperer::core;
using namespace whisperer::core::fuzz;

// Input: two bytes of plan, then the receiver's script. Its first answer follows the handshake, each further
// one a request.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input(data, size);
    const uint8_t first = input.byte();
    const uint8_t second = input.byte();
    constexpr size_t bodies[] = {65536, 0, 1, 100};
    constexpr Ending endings[] = {Ending::silence, Ending::close, Ending::close, Ending::reset};
    Script script{};
    script.answers = parse_answers(input.rest(), true);
    script.unasked = (first & 4) != 0;
    script.secure = script.http2 = true;
    script.ending = endings[first >> 6];
    Plan plan{};
    plan.requests = 1 + (first & 3);
    plan.secure = plan.http2 = true;
    plan.at_once = (first & 32) != 0;
    plan.max_body = bodies[second & 3];
    plan.configures = (second >> 2 & 3) == 3;
    plan.event_step = 1 + (second >> 4);
    Receiver receiver(std::move(script));
    Owner(plan, &receiver).run();
    return 0;
}
