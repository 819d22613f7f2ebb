// What waits for a time: two threads look at the clock at different moments, and somebody may put it back.
#include "outbox_model.hpp"

#include <gtest/gtest.h>

namespace whisperer::core::test {

namespace {

constexpr WallMicros day = 86400 * second;

// The time of its next attempt, once it is written.
WallMicros due_of(Model *model, const Uuid &uuid) {
    EXPECT_TRUE(model->until([&] { return model->table[uuid].due != 0; }));
    EXPECT_TRUE(model->until([&] { return !model->box->wants_read(model->wall()); }));
    return model->table[uuid].due;
}

TEST_F(OutboxTest, ARetryIsReadThoughOneThreadLooksAtAnOlderTimeThanTheOther) {
    model.subscribe(1, url("/flaky"), 2.0);
    Xid xid = model.begin();
    Uuid uuid = model.insert(xid, 1);
    model.commit(xid);
    WallMicros due = due_of(&model, uuid);
    EXPECT_TRUE(model.box->wants_read(due));
    EXPECT_FALSE(model.box->wants_read(due - 1));
    EXPECT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, APauseEndsThoughOneThreadLooksAtAnOlderTimeThanTheOther) {
    model.subscribe(1, url("/200"));
    model.box->allow_sending(false);
    Xid xid = model.begin();
    for (int i = 0; i < 5; i++)
        model.insert(xid, 1);
    model.commit(xid);
    for (int i = 0; i < 3; i++)
        model.turn(false);
    WallMicros end = model.wall() + second / 5;
    model.box->set_receiver_state({1, 0, end, 200, {}});
    model.box->allow_sending(true);
    model.turn(false);
    EXPECT_TRUE(model.launches.empty());
    (void)model.box->wants_read(end);
    model.box->start(Model::mono(), end - 1);
    EXPECT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, AClockThatIsPutBackDelaysNoResult) {
    model.clock_shift = day;
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid held = model.insert(xid, 1);
    model.locked.insert(held);
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.postponements > 0; }));
    model.clock_shift = 0;
    model.locked.clear();
    ASSERT_TRUE(model.until([&] { return model.empty(); }));
    EXPECT_EQ(model.launches[held], 1);
}

// One delivery's, sent with success.
template <typename Model> bool has_unrecorded_result(Model &model, const std::string &url) {
    model.subscribe(1, url);
    model.records = false;
    Xid xid = model.begin();
    model.insert(xid, 1);
    model.commit(xid);
    return model.until([&] { return model.box->result_count() == 1; });
}

// The thread that records looked at it before, and says so after the other one has noticed.
TEST_F(OutboxTest, NorDoesOneThatIsPutBackMeanwhile) {
    model.clock_shift = day;
    ASSERT_TRUE(has_unrecorded_result(model, url("/200")));
    WallMicros again = model.wall() + second / 5;
    model.clock_shift = 0;
    model.box->step(Model::mono(), model.wall());
    model.box->postpone(0, again);
    model.box->settle_results();
    model.records = true;
    EXPECT_TRUE(model.until([&] { return model.empty(); }));
}

// Nor until their time has come, if there is none left for that.
TEST_F(OutboxTest, PostponedOnesCanBeRecordedAtOnce) {
    ASSERT_TRUE(has_unrecorded_result(model, url("/200")));
    model.box->postpone(0, model.wall() + second);
    model.box->settle_results();
    EXPECT_EQ(model.box->result_count(), 0u);
    EXPECT_EQ(model.box->unrecorded_count(), 1u);
    model.box->end_postponements();
    EXPECT_EQ(model.box->result_count(), 1u);
    EXPECT_EQ(model.box->unrecorded_count(), 1u);
    model.records = true;
    EXPECT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, NorAnAdoption) {
    model.clock_shift = day;
    model.subscribe(1, url("/200"));
    Xid xid = model.begin();
    Uuid uuid = model.insert(xid, 1);
    model.commit(xid);
    model.table[uuid].not_before = model.wall() - day + second / 2;
    WallMicros again = model.wall() + second / 5;
    model.clock_shift = 0;
    model.box->step(Model::mono(), model.wall());
    model.box->adoption_failed({uuid, 1, model.table[uuid].not_before}, again);
    EXPECT_TRUE(model.box->wants_adoptions(model.wall()));
    EXPECT_TRUE(model.until([&] { return model.empty(); }));
}

TEST_F(OutboxTest, ARestAfterWhatCouldNotBeSentIsNotADayLong) {
    model.clock_shift = day;
    model.subscribe(1, url("/200"));
    model.table_too_large = true;
    Xid xid = model.begin();
    Uuid lost = model.insert(xid, 1);
    model.bodies_lost = {lost};
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.errors.count(lost) > 0; }));
    ReceiverState state{};
    bool deactivate = false;
    while (model.box->next_changed_state(&state, &deactivate, Outbox::at_once))
        EXPECT_EQ(state.paused_until, 0) << "it is nothing to remember";
    model.clock_shift = 0;
    xid = model.begin();
    Uuid next = model.insert(xid, 1);
    model.commit(xid);
    EXPECT_TRUE(model.until([&] { return model.history.count(next) > 0; }));
}

// Its result is recorded meanwhile, and its next attempt is an hour away.
TEST_F(OutboxTest, ARestEndsForTheOthersThoughARetryIsFarOff) {
    model.subscribe(1, url("/200"), 3600.0);
    model.table_too_large = true;
    Xid xid = model.begin();
    Uuid lost = model.insert(xid, 1);
    model.bodies_lost = {lost};
    model.commit(xid);
    ASSERT_TRUE(model.until([&] { return model.launches.count(lost) > 0; }));
    EXPECT_FALSE(model.box->accepts(1, model.wall()))
        << "nor is anything taken at once by a session that shares it";
    xid = model.begin();
    for (int i = 0; i < 20; i++)
        model.insert(xid, 1);
    model.commit(xid);
    EXPECT_TRUE(model.until([&] { return model.history.size() == 20; }));
    EXPECT_EQ(model.launches[lost], 1);
}

} // namespace

} // namespace whisperer::core::test
