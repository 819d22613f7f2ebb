# The judge of the crash tests: rows are written to a table under load, each row an event for several
# subscriptions, while the test breaks things; then what was committed, what the receiver saw, and what the
# views say must agree to the row.
#
#     my $ledger = Whisperer::Ledger->new($node, $receiver);
#     $ledger->start(sessions_end => 1);        # pgbench, and a writer that notes what was acknowledged
#     $ledger->begun;
#     $ledger->random_moment(0.5);
#     $ledger->disrupt(sub { kill … });         # duplicates are allowed only for what was in flight then
#     $ledger->finish;
#     $ledger->judge('after the kill');
#
# Two subscriptions: /plain is answered 200; /flaky gets 500 once and then 200, has a custom countdown and a
# callback, so that every kind of process has work. What is done may be done many times before it is judged.
package Whisperer::Ledger;

use strict;
use warnings;

use List::Util qw(min);
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Load;

# Of the worker, so that "only what was in flight" is a number.
my $max_in_flight = 64;
# For postgresql.conf. Receivers and callbacks have minutes: a process may be without a processor for seconds, its first calls take as
# long under valgrind, and a call that was too late has failed for good.
our $settings = <<"CONF";
restart_after_crash = on
whisperer.max_in_flight = $max_in_flight
whisperer.max_in_flight_per_subscription = 32
max_prepared_transactions = 200
whisperer.request_timeout = 100
whisperer.callback_timeout = '60 s'
CONF

# The random moments can be repeated (as far as a race can): WHISPERER_SEED.
my $seed = $ENV{WHISPERER_SEED} // int(time() * 1000) % 2**31;
srand($seed);
note "WHISPERER_SEED=$seed";
END { diag "WHISPERER_SEED=$seed" if !Test::More->builder->is_passing; }

# How often a test repeats: in `make test`, and in `make test-long`.
sub repetitions { my ($short, $long) = @_; return $ENV{WHISPERER_REPETITIONS} // ($ENV{WHISPERER_LONG} ? $long : $short); }

# The same in pages that are judged at once: as many repetitions on each as can be kept apart and in memory.
sub pages
{
	my $left = repetitions(@_);
	my @pages;
	for (; $left > 0; $left -= 25) { push @pages, $left > 25 ? 25 : $left; }
	return @pages;
}

sub new
{
	my ($class, $node, $receiver, %options) = @_;
	my $self = bless {
		node => $node,
		receiver => $receiver,
		database => $options{database} // 'postgres',
		prefix => $options{prefix} // '', # of the receiver's paths, where there are several ledgers
		# What is only known when the load is gone: acknowledged ids, requests by uuid, when things broke.
		acknowledged => {},
		seen => {},
		disruptions => [],
		noticed => [], # by sessions of users
		loads => 0,
		after => 0,
	}, $class;
	$receiver->behave(path => "$self->{prefix}/flaky", per => 'webhook-id', steps => [ { status => 500 }, { status => 200 } ]);
	$self->sql(q{
		CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
		CREATE TABLE called (uuid uuid, attempt int, status int, error text);
		CREATE FUNCTION at_once(retry_count integer, kwargs jsonb) RETURNS float8 LANGUAGE sql AS 'SELECT 0.02';
		CREATE FUNCTION called_back(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO public.called VALUES ((response->>'event_uuid')::uuid, (response->>'attempt')::int,
				(response->>'status')::int, response->>'error') $$;
		CREATE FUNCTION process_seen(wanted text, patience interval) RETURNS integer LANGUAGE plpgsql AS $$
			DECLARE
				seen integer;
				until timestamptz := clock_timestamp() + patience;
			BEGIN
				LOOP
					PERFORM pg_stat_clear_snapshot();
					SELECT pid INTO seen FROM pg_stat_activity WHERE backend_type = wanted LIMIT 1;
					IF seen IS NOT NULL OR clock_timestamp() > until THEN RETURN seen; END IF;
					PERFORM pg_sleep(0.005);
				END LOOP;
			END $$});
	$self->attach unless $options{unattached};
	return $self;
}

sub sql { my ($self, $statement) = @_; return $self->{node}->safe_psql($self->{database}, $statement); }

# Waits until no delivery of these ("FROM whisperer.pending …") is there; who waits in vain says what is known of those that are.
sub none_left
{
	my ($self, $which, $seconds) = @_;
	return if eval { $self->{node}->poll_until($self->{database}, "SELECT count(*) $which", '0', $seconds) };
	my $error = $@;
	for my $known ("SELECT target_url, state, retry_count, error, count(*), min(next_attempt_at), max(next_attempt_at) $which
			GROUP BY 1, 2, 3, 4",
		'SELECT * FROM whisperer.workers', 'SELECT * FROM whisperer.subscription_health', 'SELECT * FROM whisperer.function_failures',
		'SELECT kind, count(*) FROM whisperer.job GROUP BY kind', 'SELECT clock_timestamp()')
	{
		diag "$known:\n", $self->sql($known);
	}
	die $error;
}

# From here on rows are events. In one transaction: the table's lock makes a sharp boundary between the rows
# before and those after.
sub attach
{
	my $self = shift;
	my ($plain, $flaky) = map { $self->{receiver}->url("$self->{prefix}$_") } '/plain', '/flaky';
	$self->{after} = $self->sql(qq{
		BEGIN;
		DO \$\$ BEGIN
			PERFORM whisperer.register_event_type('ledger');
			PERFORM whisperer.register_countdown('at once', 'at_once');
			PERFORM whisperer.subscribe('ledger', '$plain');
			PERFORM whisperer.subscribe('ledger', '$flaky', callback => 'called_back',
				retry_countdown_config => '{"choice": "at once"}');
			PERFORM whisperer.attach('ledger', 'ledger');
		END \$\$;
		SELECT coalesce((SELECT last_value FROM pg_sequences WHERE sequencename = 'ledger_id_seq'), 0);
		COMMIT});
	return;
}

# Starts the load; Whisperer::Load has the options. Without seconds it goes on until it is stopped.
sub start
{
	my ($self, %options) = @_;
	$self->{load} = Whisperer::Load->new($self->{node}, $self->{database}, %options);
	$self->{loads}++;
	return;
}

# Until all its sessions are there, and it has written enough to be judged, whatever comes next.
sub begun
{
	my $self = shift;
	my ($name, $sessions, $has_written) = map { $self->{load}->$_ } qw(name sessions has_written);
	$self->{node}->poll_until($self->{database}, "SELECT $has_written
		AND (SELECT count(*) FROM pg_stat_activity WHERE application_name = '$name') = $sessions FROM ledger");
	return;
}

# Until there are so many events.
sub written
{
	my ($self, $rows) = @_;
	$self->{node}->poll_until($self->{database}, "SELECT count(*) >= $rows FROM ledger WHERE id > $self->{after}");
	return;
}

# Whether the load is there, all of it.
sub goes_on { my $self = shift; return $self->{load} && $self->{load}->goes_on; }

# Begins it (again, if it or some of it has ended).
sub keep_up
{
	my ($self, %options) = @_;
	return if $self->goes_on;
	$self->stop_load;
	$self->start(%options);
	return $self->begun;
}

# Stops it; or waits for its end.
sub stop_load { my $self = shift; return $self->_load_ended('stop'); }
sub end_load { my $self = shift; return $self->_load_ended('end'); }
sub _load_ended
{
	my ($self, $how) = @_;
	my $load = delete $self->{load} or return;
	$load->$how;
	$self->{acknowledged}{$_} = 1 for @{ $load->acknowledged };
	push @{ $self->{noticed} }, @{ $load->noticed };
	return;
}

# The load's end, and then a server at rest.
sub finish
{
	my $self = shift;
	$self->{load} && $self->{load}{seconds} ? $self->end_load : $self->stop_load;
	my $node = $self->{node};
	$node->wait_back;
	# A session whose client has gone goes on to the end of its statement: a day if it sleeps, and the clock was put back.
	$node->poll_until($self->{database}, q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'ledger %'}, '0');
	# Nobody else will end what a session prepared and left.
	my $left = $self->sql('SELECT gid FROM pg_prepared_xacts WHERE database = current_database()');
	$self->sql(join '', map { "COMMIT PREPARED '$_';\n" } split /\n/, $left) if $left;
	return;
}

sub random_moment { my ($self, $most) = @_; usleep(rand($most) * 1e6); return; }

# Does something that may cost what is in flight its result.
sub disrupt
{
	my ($self, $what) = @_;
	my $from = time();
	my $result = $what->();
	$self->disrupted($from, time());
	return $result;
}

# Has a delivery worker leave, which has a second's patience with receivers. Where that may have passed, what was in flight may be sent
# again. Returns whether it was in time.
sub patiently
{
	my ($self, $leave) = @_;
	my $asked = time();
	$leave->();
	my $left = time();
	note sprintf 'left after %.1f s', $left - $asked;
	return 1 if $left - $asked < 1;
	$self->disrupted($asked, $left);
	return 0;
}

# Something has done that, between these times.
sub disrupted { my ($self, $from, $to) = @_; push @{ $self->{disruptions} }, [ $from, $to ]; return; }

# What a server that has crashed at this time had recorded as settled, as far as it is still so, and what of that arrived later
# (by the receiver's clock, which may be off by a millisecond).
sub recorded_before
{
	my ($self, $crash) = @_;
	my @recorded = split /\n/, $self->sql("SELECT uuid FROM whisperer.history WHERE modified_date <= to_timestamp($crash)");
	my %seen = map { %$_ } values %{ $self->{seen} };
	return (scalar @recorded, grep { grep { $_ > $crash + 0.001 } @{ $seen{$_}{arrived} } } @recorded);
}

# The launcher would wait longer after each crash, and this test crashes often.
sub forget_crashes { my $self = shift; unlink $self->{node}->data_dir . '/pg_whisperer/launcher'; return; }

# Takes over what the receiver saw: arrivals by path and uuid.
sub _collect
{
	my $self = shift;
	for my $request ($self->{receiver}->requests(forget => 1))
	{
		my ($path) = $request->{path} =~ m{^\Q$self->{prefix}\E(/\w+)$} or next;
		my ($id) = $request->{body} =~ /"id": (\d+)/;
		my $entry = $self->{seen}{$path}{ $request->{id} } //= { id => $id, arrived => [] };
		push @{ $entry->{arrived} }, $request->{arrived};
	}
	return;
}

# Everything is settled and every callback made; then the three are compared. Returns how many rows. least: so many rows there must
# be, 10 after a load. callbacks_may_fail: the function itself may have found no room for its row, and that is an error of its own,
# not to be repeated. unreplicated: results that were recorded may be gone, too, however many they were.
sub judge
{
	my ($self, $name, %options) = @_;
	my $node = $self->{node};
	$node->wait_settled($self->{database});
	$node->poll_until($self->{database}, 'SELECT count(*) FROM whisperer.job', '0');
	$self->_collect;
	my %committed = map { $_ => 1 } split /\n/, $self->sql('SELECT id FROM ledger');
	my @expected = grep { $_ > $self->{after} } keys %committed;
	my %views;
	for my $line (split /\n/, $self->sql(q{
		SELECT uuid, regexp_replace(target_url, '.*/', '/'), request_payload->'payload'->>'id', state, retry_count,
			cardinality(request_datetimes), coalesce(calls, 0), troubles
		FROM whisperer.webhook_events w LEFT JOIN (
			SELECT uuid, count(*) AS calls, string_agg(concat_ws(' ', status, error), ', ') FILTER (WHERE NOT
				(status = 200 AND error IS NULL OR status = 500 AND error = 'the receiver answered with status 500')) AS troubles
			FROM called GROUP BY uuid) c USING (uuid)
		WHERE event_type = 'ledger'}))
	{
		my ($uuid, $path, @values) = split /\|/, $line;
		$views{$path}{$uuid} = { map { $_ => shift @values } qw(id state attempts times called troubles) };
	}
	my @disagreements;
	my $agree = sub {
		my ($what, @wrong) = @_;
		push @disagreements, "not so: $what: " . @wrong . ', such as ' . join ', ', @wrong[ 0 .. ($#wrong > 4 ? 4 : $#wrong) ] if @wrong;
	};
	my $least = $options{least} // ($self->{loads} ? 10 : 1);
	$agree->("$least rows or more, some of them acknowledged", scalar @expected)
	  if @expected < $least || ($least && $self->{loads} && !%{ $self->{acknowledged} });
	$agree->('no session of a user notices', @{ $self->{noticed} });
	$agree->('what was acknowledged is committed', grep { !$committed{$_} } keys %{ $self->{acknowledged} });
	my $again = 0;
	for my $path ('/plain', '/flaky')
	{
		my $deliveries = $views{$path} // {};
		my $seen = $self->{seen}{$path} // {};
		my %by_id;
		$by_id{ $_->{id} }++ for values %$deliveries;
		$agree->("$path: each committed row is one delivery", grep { ($by_id{$_} // 0) != 1 } @expected);
		$agree->("$path: each delivery is of a committed row", grep { !$committed{$_} } keys %by_id);
		$agree->("$path: nothing is received that is not in the views",
			grep { $options{earlier} ? !$committed{ $seen->{$_}{id} } : !$deliveries->{$_} } keys %$seen);
		$agree->("$path: every delivery is delivered", map { "$_ $deliveries->{$_}{state}" } grep { $deliveries->{$_}{state} ne 'delivered' } keys %$deliveries);
		$agree->("$path: the receiver has each attempt that is recorded, of that row",
			grep { !$seen->{$_} || $seen->{$_}{id} != $deliveries->{$_}{id} || @{ $seen->{$_}{arrived} } < $deliveries->{$_}{attempts} } keys %$deliveries);
		my $enough = $path eq '/plain' ? 1 : 2;
		$agree->("$path: no attempt is recorded twice, or for nothing",
			grep { $deliveries->{$_}{attempts} > $enough || $deliveries->{$_}{times} != $deliveries->{$_}{attempts} } keys %$deliveries);
		$agree->("$path: one callback for each recorded attempt",
			map { "$_ $deliveries->{$_}{called} of $deliveries->{$_}{attempts}" }
			grep { $options{callbacks_may_fail} ? $deliveries->{$_}{called} > $deliveries->{$_}{attempts} : $deliveries->{$_}{called} != $deliveries->{$_}{attempts} }
			keys %$deliveries) if $path eq '/flaky';
		$agree->("$path: each attempt is recorded as it was answered",
			map { "$_ $deliveries->{$_}{troubles}" } grep { length $deliveries->{$_}{troubles} } keys %$deliveries);
		# Sent, and the result not recorded: it was in flight when something broke, each time.
		my @again = grep { $seen->{$_} && @{ $seen->{$_}{arrived} } > $deliveries->{$_}{attempts} } keys %$deliveries;
		$agree->("$path: only what was in flight was sent again",
			grep { @{ $seen->{$_}{arrived} } - $deliveries->{$_}{attempts} > $self->_disrupted($seen->{$_}{arrived}) } @again);
		$again += @{ $seen->{$_}{arrived} } - $deliveries->{$_}{attempts} for @again;
	}
	for my $broke (@{ $self->{disruptions} })
	{
		my (undef, @sent) = $self->recorded_before($broke->[0]);
		$agree->('what was recorded before it broke was not sent again', @sent);
	}
	my $most = $max_in_flight * @{ $self->{disruptions} };
	$agree->("no more is sent again than the $most that can be in flight", $again) if $again > $most && !$options{unreplicated};
	is(join("\n", @disagreements), '', "$name: the ledger agrees, @{[scalar @expected]} rows");
	$self->{again} = $again;
	return scalar @expected;
}

# Between how many of these times, each and the next, something broke; each time it did accounts for one. The receiver may come late
# to what had been sent before it broke.
sub _disrupted
{
	my ($self, $arrived) = @_;
	my @times = sort { $a <=> $b } @$arrived;
	my ($gaps, %broke) = 0;
	for my $i (1 .. $#times)
	{
		my @between = grep { $times[ $i - 1 ] <= $_->[1] + 10 && $times[$i] >= $_->[0] } @{ $self->{disruptions} };
		$gaps++ if @between;
		$broke{$_} = 1 for @between;
	}
	return min($gaps, scalar keys %broke);
}

# A new page: what was judged is forgotten on all three sides. (prune() would ask the clock, and the clock may jump.)
sub turn_page
{
	my $self = shift;
	$self->sql('TRUNCATE ledger, called, whisperer.history, whisperer.event');
	$self->{$_} = {} for qw(acknowledged seen);
	$self->{$_} = [] for qw(disruptions noticed);
	$self->{loads} = 0;
	return;
}

1;
