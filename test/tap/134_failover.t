# Synchronous replication: after a failover nothing acknowledged is lost and everything arrives; an old primary that is fenced
# sends nothing more; and a standby that goes away makes no good answer a time-out.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

# A primary and a standby that it waits for.
sub make_pair
{
	my ($number, %options) = @_;
	my $primary = Whisperer::Node->new("primary$number");
	# allows_streaming brings ten connections: too few for the loads, and pgbench leaves when it is refused one.
	$primary->init(allows_streaming => 1,
		settings => "$Whisperer::Ledger::settings\nmax_connections = 50\n@{[$options{settings} // '']}");
	$primary->start;
	$primary->create_whisperer('postgres');
	$primary->backup('base');
	my $standby = Whisperer::Node->new("standby$number");
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	wait_for_standby($primary);
	return ($primary, $standby);
}

sub wait_for_standby
{
	my ($primary) = @_;
	$primary->safe_psql('postgres', $_) for q{ALTER SYSTEM SET synchronous_standby_names = '*'}, 'SELECT pg_reload_conf()';
	$primary->poll_until('postgres', q{SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'}, '1');
	return;
}

my $number = 0;
for my $round (1 .. Whisperer::Ledger::repetitions(10, 250))
{
	for my $how ('crash', 'fence')
	{
		my $receiver = Whisperer::Receiver->new;
		my ($primary, $standby) = make_pair(++$number);
		my $ledger = Whisperer::Ledger->new($primary, $receiver);
		my $attempts = 'SELECT attempts FROM whisperer.statistics';
		my $made;
		$ledger->start(seconds => 2, prepared => 1, rate => 200);
		$ledger->random_moment(1.5);
		# What was recorded and had not reached the standby counts as in flight, too.
		$ledger->disrupt(sub {
			if ($how eq 'crash')
			{
				$primary->stop('immediate');
				$_->finish for @{ $ledger->{load} };
			}
			else
			{
				$primary->safe_psql('postgres', $_) for 'ALTER SYSTEM SET whisperer.enabled = off', 'SELECT pg_reload_conf()';
				$primary->poll_until('postgres',
					q{SELECT state, in_flight FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled|0');
				$made = $primary->safe_psql('postgres', $attempts);
				$_->finish for @{ $ledger->{load} };
				$primary->wait_for_catchup($standby);
				# It lives on, and nobody writes to it.
				$primary->safe_psql('postgres', $_) for q{ALTER SYSTEM SET synchronous_standby_names = ''}, 'SELECT pg_reload_conf()';
			}
			$standby->promote;
		});
		$ledger->{node} = $standby;
		$standby->safe_psql('postgres', 'ALTER SYSTEM SET whisperer.enabled = on');
		$ledger->finish;
		cmp_ok(scalar keys %{ $ledger->{acknowledged} }, '>', 0, "round $round, $how: some were acknowledged");
		cmp_ok($ledger->judge("round $round, failover after a $how"), '>', 0, 'some were committed');
		if ($how eq 'fence')
		{
			is($primary->safe_psql('postgres', $attempts), $made, 'the old primary has sent nothing more');
			cmp_ok($primary->safe_psql('postgres', 'SELECT count(*) FROM whisperer.pending'), '>', 0, 'though it had something to send');
		}
		# A new life: the promoted server raises and delivers.
		$ledger->turn_page;
		$ledger->start(seconds => 1);
		$ledger->finish;
		$ledger->judge("round $round, after the promotion");
		$_->stop('immediate', fail_ok => 1) for $standby, $how eq 'fence' ? $primary : ();
	}
}

# --- a standby that goes away while requests are under way
my $receiver = Whisperer::Receiver->new;
my ($primary, $standby) = make_pair('away', settings => "whisperer.request_timeout = 2\nwhisperer.callback_timeout = '500 ms'");
my $ledger = Whisperer::Ledger->new($primary, $receiver);
$receiver->answer('/plain', { status => 200, delay => { headers => 1000 } });
$ledger->start(seconds => 4, rate => 30, clients => 20);
$receiver->await('/plain', 5, brief => 1);
$standby->stop('immediate');
# Sessions wait for the standby in their commits; what had been acknowledged before is delivered meanwhile.
my $waiting = q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'};
ok($primary->poll_until('postgres', $waiting), 'sessions wait for the standby');
ok($primary->poll_until('postgres', q{SELECT count(*) FROM whisperer.pending WHERE target_url ~ 'plain'}, '0'),
	'and deliveries do not: what is visible has been delivered');
my $troubles = q{SELECT string_agg(DISTINCT error, ', ') FROM whisperer.webhook_events};
is($primary->safe_psql('postgres', $troubles), '', 'no good answer is a time-out');
# Longer than callbacks may take: one that has been made, and whose commit waits, has not failed.
my $gone = time();
$primary->poll_until('postgres', 'SELECT clock_timestamp() > to_timestamp(' . ($gone + 2) . ')');
$standby->start;
$primary->poll_until('postgres', $waiting, 'f');
$ledger->finish;
$ledger->judge('the standby is back');
is($primary->safe_psql('postgres', $troubles), '', 'nor is one afterwards');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM whisperer.function_failures'), '0', 'and no callback failed');
unlike($primary->log_since(0), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)/, 'no process came to harm');

$_->stop for $primary, $standby;
done_testing();
