# The wall clock jumps a day, forward and back, under load: nothing is lost, nothing is sent twice, nothing times out.  A retry
# whose time was written before the clock was put back waits for that time, or for whisperer.retry().
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Clock;
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => $Whisperer::Ledger::settings);
my $clock = Whisperer::Clock->new;
$clock->preloaded(sub { $node->start });
$node->create_whisperer('postgres');
my $ledger = Whisperer::Ledger->new($node, $receiver);
my $far = '1 hour';

for my $round (1 .. Whisperer::Ledger::repetitions(10, 250))
{
	my $before = 0;
	for my $day (1, 0, -1, 0)
	{
		my $name = "round $round, from day $before to day $day";
		$ledger->start(prepared => 1);
		$ledger->begun;
		$ledger->random_moment(0.5);
		$clock->set($day);
		$ledger->written($ledger->sql('SELECT count(*) FROM ledger') + 30);
		$ledger->finish;
		# What has not been tried yet waits for nothing.
		$ledger->none_left('FROM whisperer.pending WHERE retry_count = 0');
		# What waits for a time that is far off now.
		my $waits = "FROM whisperer.pending WHERE next_attempt_at > clock_timestamp() + interval '$far'";
		my $others = "FROM whisperer.pending WHERE next_attempt_at <= clock_timestamp() + interval '$far'";
		$ledger->none_left($others);
		my $waiting = $node->safe_psql('postgres', "SELECT count(whisperer.retry(uuid)) $waits");
		note "$name: $waiting retries waited for the time that was written";
		is($waiting, 0, "$name: none waits") if $day > $before;
		# Each attempt is recorded as it was answered, and none was made in vain: there was no time-out.
		$ledger->judge($name);
		$ledger->turn_page;
		$before = $day;
	}
}

# A retry whose time is written: put back, the clock makes it wait until then, or for retry().
$clock->set(1);
$receiver->answer('/retried', { status => 500 }, { status => 200 });
$ledger->sql(qq{
	SELECT whisperer.register_event_type('retried');
	SELECT whisperer.subscribe('retried', '@{[$receiver->url('/retried')]}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 600}}');
	SELECT whisperer.deliver_event('{}', 'retried')});
my $retried = q{FROM whisperer.webhook_events WHERE event_type = 'retried'};
$node->poll_until('postgres', "SELECT retry_count $retried", '1');
$clock->set(0);
is($ledger->sql("SELECT next_attempt_at > clock_timestamp() + interval '$far' $retried"), 't', 'its time is a day off now');
$ledger->sql("SELECT whisperer.retry(uuid) $retried");
$node->poll_until('postgres', "SELECT state $retried", 'delivered');
pass('retry() sends it at once');

# Raised before the clock was put back, and tried after: its countdown holds, though the row is of the future.
sub switch_sending
{
	my ($on, $state) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET whisperer.enabled = $on");
	$node->reload;
	$node->poll_until('postgres', "SELECT state FROM whisperer.workers WHERE kind = 'delivery'", $state);
	return;
}
$clock->set(1);
switch_sending('off', 'disabled');
$receiver->answer('/counts', { status => 500 });
$ledger->sql(qq{
	SELECT whisperer.register_event_type('counts');
	SELECT whisperer.subscribe('counts', '@{[$receiver->url('/counts')]}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 1000}}');
	SELECT whisperer.deliver_event('{}', 'counts')});
$clock->set(0);
switch_sending('on', 'idle');
my $counts = q{FROM whisperer.pending WHERE event_type = 'counts'};
$node->poll_until('postgres', "SELECT retry_count > 0 $counts");
is($ledger->sql("SELECT next_attempt_at > clock_timestamp() + interval '900 s', retry_count $counts"), 't|1', 'the first countdown holds');
$ledger->sql("SELECT whisperer.cancel(uuid) $counts");

# A result whose row is locked while the clock is put back is recorded as soon as the lock is gone.
$clock->set(1);
$receiver->answer('/plain', { hang => 'request' });
my $session = $node->background_psql('postgres');
$ledger->sql(q{INSERT INTO ledger (note) VALUES ('locked')});
my ($request) = $receiver->await('/plain', 1);
$session->query_safe($_) for 'BEGIN', "SELECT FROM whisperer.delivery WHERE uuid = '$request->{id}' FOR UPDATE";
$receiver->release('/plain');
$node->poll_until('postgres', q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'}, '0');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.pending WHERE target_url ~ 'flaky'}, '0');
$clock->set(0);
$session->query_safe('ROLLBACK');
$session->quit;
$ledger->judge('locked while the clock was put back');

unlike($node->log_since(0), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)/, 'no process came to harm');
$node->stop;
done_testing();
