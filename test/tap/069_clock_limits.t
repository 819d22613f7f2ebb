# The wall clock jumps a day while something has a limit of time: the limit stays what it was.  A user's function is cancelled, or
# its process ended, and meanwhile holds up nobody; wait_until_settled() waits as long as it was told, and for all it was told to.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use Whisperer::Clock;
use Whisperer::Node;
use Whisperer::Receiver;
use Whisperer::Session;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => 'whisperer.callback_timeout = 10min');
my $clock = Whisperer::Clock->new;
$clock->preloaded(sub { $node->start });
$node->create_whisperer('postgres');

# A day is not waited for.
my $patience = 120;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub deliver { return sql("SELECT (whisperer.deliver_event('{}'::jsonb, '$_[0]'))[1]"); }
sub soon
{
	my ($query, $expected, $name) = @_;
	return ok(eval { $node->poll_until('postgres', $query, $expected, $patience) }, $name) || diag $@;
}

sql(q{
	CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol;
	CREATE TABLE called (role text);
	GRANT INSERT ON called TO PUBLIC;
	CREATE FUNCTION note(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.called VALUES (current_user)';
	CREATE FUNCTION sleeps(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(600)'; -- tested: sleeps
	CREATE FUNCTION swallows(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$}); # tested: sleeps

# Of an event type of its own.
sub subscribe
{
	my ($role, $type, $callback) = @_;
	sql("SELECT whisperer.register_event_type('$type')");
	my $id = sql("SELECT whisperer.subscribe('$type', '" . $receiver->url("/$type") . "', callback => '$callback')");
	sql("UPDATE whisperer.subscription SET owner_oid = '$role'::regrole, owner_name = '$role', change_xid = pg_current_xact_id()
		WHERE id = $id");
	return $id;
}
my $sleeping = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND wait_event = 'PgSleep'};

# A call that is slow, but not too slow yet.
$clock->set(1);
my $slow = subscribe('alice', 'slow', 'sleeps');
subscribe('carol', 'quick', 'note');
deliver('slow');
$node->poll_until('postgres', $sleeping, '1');
$clock->set(0);
deliver('quick');
soon(q{SELECT count(*) FROM called WHERE role = 'carol'}, '1', 'the clock was put back during a call: others are served by another process');
# What stops the database's processes stops that call, too; the next one is another.
sql(q{CREATE OR REPLACE FUNCTION sleeps(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.called VALUES (current_user)'});
sql($_) for q{ALTER SYSTEM SET whisperer.callback_timeout = '30s'}, q{ALTER SYSTEM SET whisperer.workers = 2}, 'SELECT pg_reload_conf()';
soon(q{SELECT count(*) FROM called WHERE role = 'alice'}, '1', '... a stop is heard');
is(sql("SELECT count(*) FROM whisperer.function_failures WHERE subscription_id = $slow"), '0', '... and is no failure');

# Calls that are too slow, with time enough for both to begin, and to put the clock back, before they are.
$node->poll_until('postgres', 'SHOW whisperer.callback_timeout', '30s');
sql(q{CREATE OR REPLACE FUNCTION sleeps(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(600)'}); # tested: sleeps
$clock->set(1);
my %error = (
	sleeps => 'took longer than whisperer.callback_timeout (30 s)',
	swallows => 'took longer than twice whisperer.callback_timeout (30 s) and ignored its cancellation; its process was ended');
my %id = (sleeps => subscribe('alice', 'too_slow', 'sleeps'), swallows => subscribe('bob', 'swallowed', 'swallows'));
deliver($_) for qw(too_slow swallowed);
$node->poll_until('postgres', $sleeping, '2');
$clock->set(0);
soon("SELECT error FROM whisperer.function_failures WHERE subscription_id = $id{$_}", $error{$_}, "... a call that $_ has its limit")
  for sort keys %id;

# Time to wait for what does not come.
my $time = 10;
my $wait = "SELECT whisperer.wait_until_settled('$time s')";
sub waits { my $session = Whisperer::Session->new($node, $_[0])->start($wait); $session->until_it_waits('Extension'); return $session; }
sub answer
{
	my ($session) = @_;
	local $PostgreSQL::Test::Utils::timeout_default = $patience;
	return eval { $session->finish } // 'none';
}
$node->wait_settled;
$receiver->answer('/hangs', { hang => 'request', status => 500 }, { hang => 'request' });
sql(q{SELECT whisperer.register_event_type('hangs')});
sql(q{SELECT whisperer.subscribe('hangs', '} . $receiver->url('/hangs') . q{', config => '{"request_timeout": 300}',
	retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3600}}')});
$clock->set(1);
my $uuid = deliver('hangs');
$receiver->await('/hangs', 1);
my $session = waits('back');
$clock->set(0);
is(answer($session), 'f', 'wait_until_settled(): the clock was put back, its time is up all the same');
my $start = time();
$session = waits('forward');
$clock->set(1);
is(answer($session), 'f', '... put forward');
cmp_ok(time() - $start, '>=', $time, '... its time is not up at once');

# It was raised a day ahead, and is handed to the worker anew during the wait: waited for all the same.
$receiver->release('/hangs');
$node->poll_until('postgres', "SELECT attempts FROM whisperer.delivery WHERE uuid = '$uuid' AND due IS NOT NULL", '1');
$clock->set(0);
is(sql("SELECT created_date > clock_timestamp() FROM whisperer.delivery WHERE uuid = '$uuid'"), 't', 'a delivery of tomorrow');
$session = waits('tomorrow');
sql("SELECT whisperer.retry('$uuid')");
$receiver->await('/hangs', 2);
is(answer($session), 'f', '... that is retried is waited for');
$receiver->release('/hangs');
$node->wait_settled;
is(sql("SELECT state FROM whisperer.history WHERE uuid = '$uuid'"), 'delivered', '... until it is settled');

$node->stop;
done_testing();
