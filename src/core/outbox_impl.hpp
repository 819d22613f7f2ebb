// Inside of the outbox, shared by its files: outbox.cpp (subscriptions), outbox_owners.cpp (whose they are),
// outbox_states.cpp (what is known of receivers), outbox_turns.cpp (who may read), outbox_reading.cpp,
// outbox_corrections.cpp (what the table changes under it), outbox_bodies.cpp, outbox_slots.cpp (how many
// requests, and whose), outbox_sending.cpp, outbox_token.cpp, outbox_learning.cpp and outbox_results.cpp.
// Members that are not noexcept may throw std::bad_alloc; the public functions in those files catch it.
#pragma once

#include "core/outbox.hpp"
#include "core/request_builder.hpp"

#include <deque>
#include <list>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace whisperer::core {

constexpr double micros_per_second = 1e6;

// Results whose rows are locked above which a subscription may have one; above which those that have some
// stop; and how many a subscription may have while there are fewer.
constexpr size_t unrecorded_limit = 4096;
constexpr size_t many_unrecorded = unrecorded_limit / 2;
constexpr int unrecorded_of_one = 16;

struct UuidHash {
    size_t operator()(const Uuid &uuid) const noexcept {
        uint64_t tail; // random in every version that is used
        __builtin_memcpy(&tail, uuid.bytes + 8, sizeof(tail));
        return static_cast<size_t>(tail);
    }
};

// Taken by every public function of the outbox. Recursive: some call others.
using Guard = std::lock_guard<std::recursive_mutex>;

enum class Standing : uint8_t { good, unknown, failing, hanging };
constexpr size_t standings = 4;

// What waits a moment, until a time of the wall clock. One that is further off was made before the clock was
// put back, and is over.
constexpr WallMicros longest_moment = 2 * 1000 * 1000;
inline bool moment_lasts(WallMicros until, WallMicros now) noexcept {
    return until > now && until - now <= longest_moment;
}

struct Subscription;
using Line = std::list<Subscription *>;
using Timers = std::set<std::pair<WallMicros, Subscription *>>;

// A subscription's place in one line. While it is not in it, it keeps the line's node: to join and to leave
// take no memory, so that nobody is left out of a line, and waits for ever, because there was none.
class Place {
  public:
    explicit Place(Subscription *of) : node_(1, of), at_(node_.begin()) {}
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;

    bool taken() const noexcept { return node_.empty(); }
    void join(Line *line) noexcept {
        if (!taken())
            line->splice(line->end(), node_);
    }
    void leave(Line *line) noexcept {
        if (taken())
            node_.splice(node_.begin(), *line, at_);
    }
    // To the front, whether it was in the line or not.
    void lead(Line *line) noexcept { line->splice(line->begin(), taken() ? *line : node_, at_); }

  private:
    Line node_;
    Line::iterator at_;
};

// One delivery in memory, from its being read until its result is recorded.
struct Item {
    Uuid uuid;
    Subscription *subscription; // null once the subscription is gone
    int64_t subscription_id;
    int attempts = 0; // made, with the one whose result this holds
    Xid xid = 0;      // of the row that the attempt is made for
    std::string event_type;
    std::string payload;
    bool whole_body = false;
    bool body_missing = false;
    bool body_asked = false; // and the shell is to load it, or doing so
    bool body_lost = false;  // it is not missing any more: there is none
    bool suspect = false;
    bool on_trial = false; // a suspect that was sent: no other one is until it has landed
    CrashCount crashes{};
    int flight_slot = -1;
    WallMicros attempted_at = 0;
    bool asks_token = false;   // its request under way is for a token
    uint64_t token_serial = 0; // of the token, or of its source, that the request was made with

    // The result.
    Outcome outcome = Outcome::retry;
    int status = 0;
    std::string error;
    std::string response;
    bool response_truncated = false;
    std::string headers;
    bool has_callback = false;
    bool custom_countdown = false;
    Micros elapsed = 0;
    WallMicros due = 0;
    bool is_recorded = false;
    bool was_postponed = false; // its row was found locked
    WallMicros postponed_until = 0;
};

// Token authentication of a subscription: where tokens come from, and the one that it has.
struct Token {
    std::string url; // empty: not used
    std::string form;
    std::string key;
    std::string format;
    uint64_t serial = 0; // grows with each change of source or token
    bool asking = false;
    std::string authorization; // empty: none
    Micros obtained_at = 0;
};

// The role whose subscriptions these are: together they leave others slots, too.
struct Owner {
    int subscriptions = 0;
    int in_flight = 0;
};

// What the outbox was told of a subscription. Copied first, and then taken over as a whole or not at all: a
// new URL is never called with the old secret.
struct Told {
    std::string url;
    std::vector<std::string> header_lines;
    std::vector<Slice> header_slices; // of header_lines
    bool has_secret = false;
    std::string secret;
    std::string authorization;
    Micros connect_timeout = 0;
    Micros response_timeout = 0;
    int max_attempts = 0;
    int max_in_flight = 0;
    Countdown countdown{};
    std::vector<double> schedule; // what countdown points to
    bool custom_countdown = false;
    bool has_callback = false;
    bool sendable = false;
};

struct Subscription : Told {
    Subscription(int64_t its_id, int its_bucket) : id(its_id), bucket(its_bucket) {
        Timers own{{never, this}};
        timer_node = own.extract(own.begin());
    }

    const int64_t id;
    const int bucket;
    uint32_t owner_id = 0;
    Owner *owner = nullptr; // null until it is told
    Token token;

    // Reading. New rows: everything visible in `read_to`'s predecessor `read_from` has been read; of what
    // became visible in `read_to`, everything up to (position_xid, position_uuid).
    bool unread = true; // there may be rows that are not visible in read_from
    std::shared_ptr<const Snapshot> read_from;
    std::shared_ptr<const Snapshot> read_to; // null: no reading under way
    Xid position_xid = 0;
    Uuid position_uuid{};
    // Retries: everything up to (retry_due, retry_uuid) has been read; next_due is when to look again.
    WallMicros retry_due = INT64_MIN;
    Uuid retry_uuid{};
    WallMicros next_due = INT64_MIN;
    bool retries_turn = true; // had the last place, where there was only one
    uint32_t reading_serial =
        0; // grows whenever reading begins again: what was planned before does not count then
    // Something was left to somebody else who is sending it: everything is read again then, whatever became
    // of it.
    WallMicros reread_at = never;

    // Sending.
    std::deque<Item *> queue;
    int being_read = 0; // rows of the reads under way
    int in_flight = 0;
    int postponed = 0; // results whose rows were found locked, and which are not recorded yet
    int window = 1;    // a receiver nobody knows may hang: one slot is what it costs to find out
    Standing standing = Standing::unknown; // without regard to `stalled`
    bool stalled = false;
    Micros last_progress = 0;
    int consecutive_failures = 0;
    WallMicros paused_until = 0;
    WallMicros rests_until = 0; // a moment, after an attempt that could not even be made
    int last_status = 0;
    std::string last_error;
    bool state_urgent = false;
    bool deactivate = false;
    Micros state_given = INT64_MIN / 2;

    // Places in the lines below.
    Place in_ready[standings] = {Place(this), Place(this), Place(this), Place(this)};
    Place in_body_line{this};
    Place in_crowd{this};
    Place in_hungry{this};
    Place in_changed{this};
    Place in_flying{this};
    Place in_recheck{this};
    WallMicros timer = never;     // its key in `timers`
    Timers::node_type timer_node; // while it is not there

    // Nothing is sent to it at this time, whatever there is.
    bool is_paused(WallMicros now) const noexcept {
        return paused_until > now || moment_lasts(rests_until, now);
    }
    Standing effective() const noexcept { return stalled ? Standing::hanging : standing; }
};

// A planned reading of one subscription's new rows, and what came of it. Its ranges are consecutive reads.
struct PlannedNew {
    Subscription *subscription;
    XidRange last;   // of its ranges
    bool all_ranges; // none is left for later
    int limit;       // rows of all ranges together
    uint32_t serial; // the subscription's reading_serial
    int taken = 0;
    bool cut = false; // rows were refused: the position stands at the last one taken
};

struct PlannedRetry {
    Subscription *subscription;
    int limit;
    uint32_t serial; // the subscription's reading_serial
    int rows = 0;
    bool ended = false; // a row was met that is not due yet, or the queue is full
    WallMicros due = 0; // the cursor reached
    Uuid uuid{};
    WallMicros next_due = never;
};

enum class Launch : uint8_t {
    sent,
    failed, // out of memory, or something was recalled: later
    claimed // somebody else is sending it
};

// Settings of the engine on their way to whoever steps it.
struct EngineChange {
    AddressPolicy policy;
    std::string ca_file;
    std::string proxy;
    size_t max_connections;
};

// Another source makes the old token, and the answer to a request under way, worthless.
Token token_source(const TokenFields &fields); // throws std::bad_alloc
void take_source(Token *token, Token source) noexcept;

struct Outbox::Impl {
    mutable std::recursive_mutex mutex; // of everything but `engine`, which belongs to whoever calls step()
    std::unique_ptr<HttpEngine> engine;
    size_t requests = 0;          // that the engine has
    bool sending = true;          // start() may start something
    bool short_of_memory = false; // something was not started for this reason
    unsigned handled_recalls = 0;
    std::unique_ptr<EngineChange> engine_change;
    OutboxLimits limits{};
    Random random{};
    FlightRecorder recorder{};
    std::string user_agent;
    RequestBuilder builder;

    std::unordered_map<int64_t, std::unique_ptr<Subscription>> subscriptions;
    std::unordered_map<uint32_t, Owner> owners; // that have subscriptions
    std::vector<std::vector<Subscription *>> buckets{static_cast<size_t>(bucket_count)};
    std::unordered_map<Uuid, std::unique_ptr<Item>, UuidHash> items;
    std::unordered_map<Uuid, CrashCount, UuidHash> crashed; // in flight at a crash, not yet read again
    std::deque<Item *> suspect_queue;
    int trials = 0;

    Line ready[standings];   // have something to send, as far as is known
    Line hungry;             // may want to read
    Line changed;            // state to be saved
    std::string given_error; // of the state that was given last
    Timers timers;
    Line flying; // with requests in flight
    int in_flight_by[standings] = {};
    size_t queued_bytes = 0;
    Micros last_stall_check = INT64_MIN / 2;
    Micros first_start = INT64_MIN;
    WallMicros looked_at = 0; // by wants_read()
    WallMicros planned_at = 0;
    Micros clock_offset = INT64_MIN / 2; // wall clock less monotonic clock

    std::shared_ptr<const Snapshot> now_snapshot;
    std::vector<Subscription *> planning; // taken off `hungry` for the reads under way
    size_t reached = 0;                   // as many of them are planned; the others come first next time
    std::vector<PlannedNew> planned_new;
    std::vector<size_t> planned_by_read; // index into planned_new
    std::vector<PlannedRetry> planned_retries;
    std::vector<Item *> just_read; // by the reads under way: nothing of it is sent before they are finished
    std::vector<Adoption> adoptions_read; // of the reads under way
    std::deque<Adoption> adoptions;
    WallMicros adoptions_again = 0;  // one of them was locked: not before this
    std::vector<Uuid> bodies_wanted; // has room for all that may be
    Line crowd;                      // had too much in flight; tries again when requests have ended
    Line body_line;                  // will ask for a body when one of those has come
    Line recheck;                    // dirty while deliveries of theirs were unsent

    std::vector<Item *> results;   // to be recorded
    std::vector<Item *> postponed; // their rows were locked; has room for all results too
    size_t tried_again = 0;        // of the results: they were postponed before

    // outbox.cpp
    Subscription *find(int64_t id) noexcept;
    Subscription *add_subscription(int64_t id, int bucket);
    void detach(Subscription *subscription) noexcept; // from every list; its items lose it
    void forget(Item *item) noexcept;
    void drop_payload(Item *item) noexcept;
    void drop_queue(Subscription *subscription) noexcept;
    void remember_crashes(const Item &item) noexcept;
    void reset_reading(Subscription *subscription) noexcept;
    void deactivate(Subscription *subscription) noexcept;

    // outbox_owners.cpp
    void set_owner(Subscription *subscription, uint32_t id);
    void leave_owner(Subscription *subscription) noexcept;

    // outbox_states.cpp
    void note_state(Subscription *subscription, bool urgent) noexcept;
    void note_error(Subscription *subscription, Slice error) noexcept;

    // outbox_turns.cpp
    int wanted_rows(const Subscription &subscription) const noexcept;
    int wanted_new(Subscription *subscription) const noexcept;
    bool is_hungry(const Subscription &subscription, WallMicros now) const noexcept;
    void make_hungry(Subscription *subscription) noexcept;
    void set_timer(Subscription *subscription, WallMicros when) noexcept;
    void arm(Subscription *subscription, WallMicros now) noexcept;
    void fire_timers(WallMicros now) noexcept;
    void mark_dirty(const std::vector<Subscription *> &bucket) noexcept;

    // outbox_reading.cpp
    Item *make_item(Subscription *subscription, const DeliveryRow &row);
    void begin_planning();
    void finish_new(PlannedNew &plan) noexcept;
    void finish_retry(const PlannedRetry &read) noexcept;
    void queue_read();
    void undo_reads() noexcept;

    // outbox_corrections.cpp
    void retry_written(Subscription *subscription, WallMicros due) noexcept;
    void trim(Subscription *subscription, size_t most) noexcept;

    // outbox_slots.cpp
    int most_in_flight(const Subscription &subscription) const noexcept;
    int slots_left() const noexcept;
    int guaranteed(Standing standing) const noexcept;
    int promised_beside(Standing standing) const noexcept;
    bool has_slot(Standing standing) const noexcept;
    bool last_eighth() const noexcept;
    bool takes_too_many(int in_flight) const noexcept;
    bool leaves_enough(Subscription *subscription) noexcept;
    void end_crowd(size_t ended) noexcept;
    void set_standing(Subscription *subscription, Standing standing, bool stalled) noexcept;

    // outbox_sending.cpp
    void make_ready(Subscription *subscription, bool first = false) noexcept;
    bool may_send(const Subscription &subscription, WallMicros wall) const noexcept;
    bool may_have_unrecorded(const Subscription &subscription) const noexcept;
    // A null request: nothing is sent.
    Launch take_off(Item *item, HttpRequest *request, Micros now, WallMicros wall) noexcept;
    void count_requests(int change) noexcept;
    bool recalled() const noexcept;
    Launch launch(Item *item, Micros now, WallMicros wall) noexcept;
    Launch fail_unsent(Item *item, const char *why, Micros now, WallMicros wall) noexcept;
    void leave_to_other(Item *item, WallMicros wall) noexcept;
    void start_suspect(Micros now, WallMicros wall);
    bool start_one(Standing standing, Micros now, WallMicros wall) noexcept;

    // outbox_bodies.cpp
    static constexpr size_t bodies_at_once = 4; // on their way from the table: what bounds the memory
    bool ask_body(Item *item) noexcept;
    Item *waiting_for_body(const Uuid &uuid) noexcept;
    void end_body_line() noexcept;
    void ask_bodies_again() noexcept;

    // outbox_learning.cpp
    void leave_flight(Item *item, Micros now) noexcept;
    void conclude(Item *item, const HttpResult &http, Micros now, WallMicros wall);
    void take_result(const HttpResult &http, Micros now, WallMicros wall);
    void learn(Subscription *subscription, const Item &item, const HttpResult &http, double pause, Micros now,
               WallMicros wall) noexcept;
    void find_stalled(Micros now) noexcept;

    // outbox_results.cpp
    void add_result(Item *item);
    void put_aside(Item *item) noexcept;
    void end_postponement(Subscription *subscription) noexcept;
    void wake_postponed(WallMicros now) noexcept;
    bool clock_was_put_back(Micros now, WallMicros wall) noexcept;
    void land(Item *item) noexcept;
    void acquit(const Item &item) noexcept;
    void end_trial(Item *item) noexcept;

    // outbox_token.cpp
    bool needs_token(const Subscription &subscription, Micros now) const noexcept;
    Launch ask_token(Item *item, Micros now, WallMicros wall) noexcept;
    void take_token(Item *item, const HttpResult &http, Micros now, WallMicros wall);
};

} // namespace whisperer::core
