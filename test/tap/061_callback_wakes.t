# Callbacks that wait while processes come and go are not forgotten.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

plan skip_all => 'a process without work leaves before one can look at it under valgrind' if $ENV{WHISPERER_POSTGRES};

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "whisperer.workers = 2\nwhisperer.callback_timeout = 600s");
sub sql { return $node->safe_psql('postgres', $_[0]); }

sql(q{
	CREATE TABLE called (event_type text, n text);
	CREATE TABLE gate (open boolean);
	INSERT INTO gate VALUES (false);
	GRANT ALL ON called, gate TO PUBLIC;
	CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.called VALUES (event_type, instance->>'n') $$;
	CREATE FUNCTION gated(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_advisory_xact_lock_shared(61);
		WHILE NOT (SELECT open FROM public.gate) LOOP PERFORM pg_sleep(0.02); END LOOP; -- tested: sleeps
		INSERT INTO public.called VALUES (event_type, instance->>'n'); END $$});
# Each its owner: calls of one owner are made one after the other.
for my $type (qw(gated note))
{
	sql("CREATE ROLE $type; SELECT whisperer.register_event_type('$type'); SELECT whisperer.grant_access('$type', 'subscribe')");
	sql("SET ROLE $type; SELECT whisperer.subscribe('$type', '@{[$receiver->url(qq(/$type))]}', callback => '$type')");
}
sub deliver { my ($type, $n) = @_; return sql("SELECT whisperer.deliver_event(jsonb_build_object('n', $n), '$type')"); }
sub called { my ($type, $n) = @_; $node->poll_until('postgres', "SELECT count(*) > 0 FROM called WHERE event_type = '$type' AND n = '$n'"); return; }
my $callbacks = q{FROM pg_stat_activity WHERE backend_type = 'whisperer callback' AND };
# Who is in the function "gated", asleep or not.
my $gated = q{FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 61};
my $waits = q{wait_event_type = 'Extension'}; # for something to do, in a latch: with nothing locked
sub set { my ($setting) = @_; sql("ALTER SYSTEM $setting"); sql('SELECT pg_reload_conf()'); return; }

# A process that is stopped lets everybody go on without it: then what depends on who is first is certain.
sub stop_process { kill 'STOP', $_[0] or die "kill: $!"; return; }
# One that waits for something to do; nothing when it has left by itself, or is about to.
sub stop_idle
{
	my ($pid) = @_;
	kill 'STOP', $pid or return '';
	# Stopped as it leaves, it may have locked what the look wants.
	my (undef, $idle) = $node->psql('postgres', "SELECT count(*) $callbacks pid = $pid AND $waits AND state = 'idle'",
		timeout => 30, timed_out => \my $locked);
	return $pid if !$locked && $idle eq '1';
	kill 'CONT', $pid;
	return '';
}
sub let_process_go { kill 'CONT', $_[0] or die "kill: $!"; return; }

# The set of processes ends while one is in a call, and another, idle one takes its time to leave: whoever hands the
# call on takes that one for somebody who will make it.
{
	deliver('gated', 1);
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	my $busy = sql("SELECT pid $gated");
	my $idle = '';
	for (my $n = 1; $idle eq ''; $n++) # it leaves after a while
	{
		deliver('note', $n);
		called('note', $n);
		my $one = sql("SELECT pid $callbacks pid <> $busy AND $waits AND state = 'idle' LIMIT 1");
		$idle = stop_idle($one) if $one ne '';
	}
	my $old = join ', ', $busy, $node->delivery_pids('postgres', 2);
	set('SET whisperer.workers = 1');
	$node->poll_until('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($old)", '0');
	$node->delivery_pids('postgres', 1);
	is(sql('SELECT count(*) FROM whisperer.job'), '1', 'the call waits');
	let_process_go($idle);
	$node->poll_until('postgres', "SELECT count(*) $gated", '1');
	pass('a call interrupted by a change of the set is made again, though one who could have made it leaves');
}

# Disabled and enabled again: the delivery worker, which announces what waits, hears of it before the launcher does.
{
	my $busy = sql("SELECT pid $gated");
	my ($delivery) = $node->delivery_pids('postgres');
	set('SET whisperer.enabled = off');
	$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
	sql("SELECT pg_terminate_backend($busy)");
	$node->poll_until('postgres', "SELECT count(*) $callbacks true", '0');
	is(sql('SELECT count(*) FROM whisperer.job'), '1', 'disabled: the call waits');
	sql('UPDATE gate SET open = true');
	my $launcher = sql(q{SELECT pid FROM whisperer.workers WHERE kind = 'launcher'});
	stop_process($launcher);
	set('RESET whisperer.enabled');
	$node->poll_until('postgres', qq{SELECT count(*) FROM pg_stat_activity a JOIN whisperer.workers w USING (pid)
		WHERE a.pid = $delivery AND w.state = 'idle' AND a.$waits}, '1');
	stop_process($delivery); # it says it once
	let_process_go($launcher);
	called('gated', 1);
	pass('enabled: it is made, whoever hears of it first');
	let_process_go($delivery);
}

$node->poll_until('postgres', "SELECT count(*) $callbacks true", '0');
pass('processes without work do not stay');
$node->stop;
done_testing();
