# Maintenance waits neither for a synchronous standby that is not there, nor does anybody wait for maintenance.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

# The test's own commits do not wait for the standby.
$ENV{PGOPTIONS} = '-c synchronous_commit=local';
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub set { my ($setting) = @_; sql("ALTER SYSTEM $setting"); sql('SELECT pg_reload_conf()'); return; }
sql(qq{
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/in')]}')});
sub deliver
{
	sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'made') FROM generate_series(1, 3)});
	$node->wait_settled;
	return;
}

# Another one each time, so that it is time to look.
my $retention = 0;
sub retain { set("SET whisperer.retention = '@{[++$retention]} microseconds'"); return; }

# --- a process of maintenance that does not come to an end: the next set of delivery workers starts without it
{
	deliver();
	my ($worker) = $node->delivery_pids('postgres');
	my $holder = $node->background_psql('postgres', on_error_die => 1);
	$holder->query_safe('BEGIN; LOCK TABLE whisperer.history');
	my $waits = q{FROM pg_stat_activity WHERE backend_type = 'whisperer maintenance' AND wait_event_type = 'Lock'};
	my $maintenance = '';
	# It gives up after ten seconds.
	$node->await(sub {
		retain();
		eval { $node->await(sub { ($maintenance = sql("SELECT pid $waits")) ne '' }, 'maintenance', 15) } or $@ =~ /^waited/ or die $@;
		return $maintenance ne '' && kill 'STOP', $maintenance;
	}, 'maintenance that waits for the lock');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	set('SET whisperer.workers = 2');
	my @workers = $node->delivery_pids('postgres', 2);
	ok(!(grep { $_ == $worker } @workers), 'two new workers');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $maintenance"), '1', 'and maintenance is still there');
	deliver();
	kill 'CONT', $maintenance or die "kill: $!";
	$node->poll_until('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $maintenance", '0');
	pass('it leaves when it can');
}

# --- a synchronous standby that is not there
set('SET whisperer.retention = 0');
deliver();
set(q{SET synchronous_standby_names = 'absent'});
$node->poll_until('postgres', q{SELECT current_setting('synchronous_standby_names')}, 'absent');
retain();
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.webhook_events', '0');
pass('what is old is removed without the standby');
deliver();
$node->stop('fast');
pass('and a fast shutdown waits for nobody');
done_testing();
