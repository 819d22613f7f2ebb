// Token authentication within the outbox.
//
// When a subscription needs a token and has none, the delivery whose turn it is asks for one: its request
// goes to the token server first, and the other deliveries of the subscription wait meanwhile. With the token
// it goes back to the front of the queue, as if nothing had been; without one, that was its attempt, and it
// failed. A token server that hangs is, to everybody else, a receiver that hangs.
#include "core/outbox_impl.hpp"

#include <new>

namespace whisperer::core {

Token token_source(const TokenFields &fields) {
    Token source;
    if (!fields.url.empty())
        source.form = token_form(fields);
    source.key.assign(fields.token_key.view());
    source.format.assign(fields.header_format.view());
    source.url.assign(fields.url.view());
    return source;
}

void take_source(Token *token, Token source) noexcept {
    if (token->url == source.url && token->form == source.form && token->key == source.key &&
        token->format == source.format)
        return;
    source.serial = token->serial + 1;
    *token = std::move(source);
}

bool Outbox::Impl::needs_token(const Subscription &subscription, Micros now) const noexcept {
    const Token &token = subscription.token;
    return !token.url.empty() && (token.authorization.empty() || now - token.obtained_at >= token_lifetime);
}

Launch Outbox::Impl::ask_token(Item *item, Micros now, WallMicros wall) noexcept {
    Subscription *subscription = item->subscription;
    Token &token = subscription->token;
    std::string agent;
    try {
        agent.append("User-Agent: ").append(user_agent);
    } catch (const std::bad_alloc &) {
        short_of_memory = true;
        return Launch::failed;
    }
    const Slice headers[] = {slice("Content-Type: application/x-www-form-urlencoded"),
                             slice("Accept: application/json"), slice(agent)};
    HttpRequest request{};
    request.url = slice(token.url);
    request.headers = headers;
    request.header_count = sizeof(headers) / sizeof(headers[0]);
    request.body = slice(token.form);
    request.max_response_body = max_token_answer;
    Launch result = take_off(item, &request, now, wall);
    if (result == Launch::sent) {
        item->asks_token = true;
        token.asking = true;
    }
    return result;
}

void Outbox::Impl::take_token(Item *item, const HttpResult &http, Micros now, WallMicros wall) {
    Subscription *subscription = item->subscription;
    bool wanted =
        subscription != nullptr && subscription->sendable && item->token_serial == subscription->token.serial;
    if (wanted) {
        Token &token = subscription->token;
        TokenAnswer answer = read_token_answer(http, token.url, token.key, token.format);
        if (!answer.error.empty()) {
            HttpResult failed{};
            failed.tag = http.tag;
            failed.failure = http.failure == Failure::none ? Failure::malformed : http.failure;
            failed.error = slice(answer.error);
            failed.elapsed = http.elapsed;
            token.asking = false;
            conclude(item, failed, now, wall);
            return;
        }
        token.authorization = std::move(answer.authorization);
        token.obtained_at = now;
        token.serial++; // tells this token from the one before
        token.asking = false;
    } else if (subscription != nullptr && item->token_serial == subscription->token.serial)
        subscription->token.asking = false;

    // Back to where it was; what happened to it meanwhile, a cancel() for instance, shows there.
    // What may throw comes first: this is done again then.
    bool keep = subscription != nullptr && subscription->sendable;
    if (keep) {
        subscription->in_recheck.join(&recheck);
        auto &queue = item->suspect ? suspect_queue : subscription->queue;
        queue.push_front(item);
    }
    item->asks_token = false;
    item->attempted_at = 0;
    leave_flight(item, now);
    land(item);
    if (!keep) {
        remember_crashes(*item);
        forget(item);
        return;
    }
    make_ready(subscription);
}

} // namespace whisperer::core
