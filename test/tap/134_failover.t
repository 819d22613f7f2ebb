# Synchronous replication: after a failover nothing acknowledged is lost and everything arrives; an old primary that is fenced
# sends nothing more; and a standby that goes away makes no good answer a time-out.
use strict;
use warnings;

use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $number = 0;
sub make_primary
{
	my (%options) = @_;
	my $primary = Whisperer::Node->new('primary' . ++$number);
	# allows_streaming brings ten connections: too few for the loads, and pgbench leaves when it is refused one.
	$primary->init(allows_streaming => 1,
		settings => "$Whisperer::Ledger::settings\nmax_connections = 50\n@{[$options{settings} // '']}");
	$primary->start;
	$primary->create_whisperer('postgres');
	return $primary;
}

# A standby that it waits for from now on.
sub add_standby
{
	my ($primary) = @_;
	my $standby = Whisperer::Node->new('standby' . ++$number);
	$primary->backup('base');
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	$primary->safe_psql('postgres', $_) for q{ALTER SYSTEM SET synchronous_standby_names = '*'}, 'SELECT pg_reload_conf()';
	$primary->poll_until('postgres', q{SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'}, '1');
	return $standby;
}

# One failover after the other: who was promoted is the next primary, raises and delivers.
my $receiver = Whisperer::Receiver->new;
my $primary = make_primary();
my $ledger = Whisperer::Ledger->new($primary, $receiver);
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	for my $how ('crash', 'fence')
	{
		my $standby = add_standby($primary);
		my $attempts = 'SELECT sum(retry_count) FROM whisperer.webhook_events';
		my $made;
		$ledger->start(prepared => 1, rate => 200, sessions_end => $how eq 'crash');
		$ledger->begun;
		$ledger->random_moment(0.7);
		# What was recorded and had not reached the standby is sent again, too.
		$ledger->disrupt(sub {
			if ($how eq 'crash')
			{
				$primary->stop('immediate');
				$ledger->stop_load;
			}
			else
			{
				$primary->safe_psql('postgres', $_) for 'ALTER SYSTEM SET whisperer.enabled = off', 'SELECT pg_reload_conf()';
				$primary->poll_until('postgres',
					q{SELECT state, in_flight FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled|0');
				# And its last results are recorded.
				$primary->poll_until('postgres', 'SELECT count(*) FROM whisperer.in_flight_list()', '0');
				$made = $primary->safe_psql('postgres', $attempts);
				$ledger->written($ledger->sql('SELECT count(*) FROM ledger') + 10);
				$ledger->finish;
				$primary->wait_for_catchup($standby);
				# It lives on, and nobody writes to it.
				$primary->safe_psql('postgres', $_) for q{ALTER SYSTEM SET synchronous_standby_names = ''}, 'SELECT pg_reload_conf()';
			}
			$standby->promote;
		});
		$ledger->{node} = $standby;
		$ledger->finish;
		$ledger->judge("round $round, failover after a $how", unreplicated => $how eq 'crash');
		if ($how eq 'fence')
		{
			is($primary->safe_psql('postgres', $attempts), $made, 'the old primary has sent nothing more');
			cmp_ok($primary->safe_psql('postgres', 'SELECT count(*) FROM whisperer.pending'), '>', 0, 'though it had something to send');
			$primary->stop('immediate');
		}
		$ledger->turn_page;
		$primary->clean_node;
		$primary = $standby;
	}
}
$primary->stop;

# --- a standby that goes away while requests are under way
$receiver = Whisperer::Receiver->new;
# What a callback may take; its first ones take long under valgrind.
my $callback_timeout = $ENV{WHISPERER_POSTGRES} ? 40 : 4;
my $request_timeout = 20;
$primary = make_primary(settings => "whisperer.request_timeout = $request_timeout\nwhisperer.callback_timeout = '$callback_timeout s'");
my $standby = add_standby($primary);
$ledger = Whisperer::Ledger->new($primary, $receiver);
$receiver->answer('/plain', { status => 200, delay => { headers => 1000 } });
$ledger->start(rate => 30, clients => 20);
$ledger->begun;
$receiver->await('/plain', 5, brief => 1);
$standby->stop('immediate');
# Sessions wait for the standby in their commits; what had been acknowledged before is delivered meanwhile.
my $waiting = q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'};
ok($primary->poll_until('postgres', $waiting), 'sessions wait for the standby');
ok($primary->poll_until('postgres', q{SELECT count(*) FROM whisperer.pending WHERE target_url ~ 'plain'}, '0'),
	'and deliveries do not: what is visible has been delivered');
# A second attempt would have hidden the first one's error.
my $troubles = q{SELECT count(*) FROM whisperer.webhook_events WHERE target_url ~ 'plain' AND retry_count <> 1};
is($primary->safe_psql('postgres', $troubles), '0', 'no good answer is a time-out');
# Longer than receivers, or callbacks twice, may take: one that has been made, and whose commit waits, has not failed.
$primary->let_pass(max($request_timeout, 2 * $callback_timeout) + 2);
$standby->start;
$primary->poll_until('postgres', $waiting, 'f');
$ledger->finish;
$ledger->judge('the standby is back');
is($primary->safe_psql('postgres', $troubles), '0', 'nor is one afterwards');
# Under valgrind a countdown's first call takes longer than the second that it has.
my $failed = $ENV{WHISPERER_POSTGRES} ? q{WHERE kind = 'callback'} : '';
is($primary->safe_psql('postgres', "SELECT count(*) FROM whisperer.function_failures $failed"), '0', 'and no callback failed');
unlike($primary->log_since(0), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)/, 'no process came to harm');

$_->stop for $primary, $standby;
done_testing();
