# The judge of the crash tests: rows are written to a table under load, each row an event for several
# subscriptions, while the test breaks things; then what was committed, what the receiver saw, and what the
# views say must agree to the row.
#
#     my $ledger = Whisperer::Ledger->new($node, $receiver);
#     $ledger->start(seconds => 2);             # pgbench, and a writer that notes what was acknowledged
#     $ledger->random_moment(1.5);
#     $ledger->disrupt(sub { kill … });         # duplicates are allowed only for what was in flight then
#     $ledger->finish;
#     $ledger->judge('after the kill');
#
# Two subscriptions: /plain is answered 200; /flaky gets 500 once and then 200, has a custom countdown and a
# callback, so that every kind of process has work.
package Whisperer::Ledger;

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time usleep);

# Of the worker, so that "only what was in flight" is a number.
our $max_in_flight = 64;
# For postgresql.conf.
our $settings = <<"CONF";
restart_after_crash = on
whisperer.max_in_flight = $max_in_flight
whisperer.max_in_flight_per_subscription = 32
max_prepared_transactions = 50
CONF

# The random moments can be repeated (as far as a race can): WHISPERER_SEED.
my $seed = $ENV{WHISPERER_SEED} // int(time() * 1000) % 2**31;
srand($seed);
note "WHISPERER_SEED=$seed";
END { diag "WHISPERER_SEED=$seed" if !Test::More->builder->is_passing; }

# How often a test repeats: in `make test`, and in `make test-long`.
sub repetitions { my ($short, $long) = @_; return $ENV{WHISPERER_REPETITIONS} // ($ENV{WHISPERER_LONG} ? $long : $short); }

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
		after => 0,
		base => PostgreSQL::Test::Utils::tempdir(),
	}, $class;
	$self->_scripts;
	$receiver->behave(path => "$self->{prefix}/flaky", per => 'webhook-id', steps => [ { status => 500 }, { status => 200 } ]);
	$self->sql(q{
		CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
		CREATE TABLE called (uuid uuid, attempt int);
		CREATE FUNCTION at_once(retry_count integer, kwargs jsonb) RETURNS float8 LANGUAGE sql AS 'SELECT 0.02';
		CREATE FUNCTION called_back(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO public.called VALUES ((response->>'event_uuid')::uuid, (response->>'attempt')::int) $$;
		CREATE FUNCTION process_seen(wanted text, patience interval) RETURNS integer LANGUAGE plpgsql AS $$
			DECLARE
				seen integer;
				until timestamptz := clock_timestamp() + patience;
			BEGIN
				LOOP
					PERFORM pg_stat_clear_snapshot();
					SELECT pid INTO seen FROM pg_stat_activity WHERE backend_type = wanted LIMIT 1;
					IF seen IS NOT NULL OR clock_timestamp() > until THEN RETURN seen; END IF;
				END LOOP;
			END $$});
	$self->attach unless $options{unattached};
	return $self;
}

sub sql { my ($self, $statement) = @_; return $self->{node}->safe_psql($self->{database}, $statement); }

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

# pgbench's transactions: most insert a row; some roll back, some to a savepoint, some are prepared.
sub _scripts
{
	my $self = shift;
	my $insert = "INSERT INTO ledger (note) VALUES ('bench');\n";
	my %scripts = (
		plain => "\\set dice random(1, 10)\nBEGIN;\n$insert\\if :dice = 1\nROLLBACK;\n"
		  . "\\elif :dice = 2\nSAVEPOINT s;\n${insert}ROLLBACK TO SAVEPOINT s;\n${insert}COMMIT;\n"
		  . "\\elif :dice = 3\nSAVEPOINT s;\n${insert}RELEASE SAVEPOINT s;\n${insert}COMMIT;\n\\else\nCOMMIT;\n\\endif\n",
		prepared => "\\set number random(1, 1000000000000)\n\\set dice random(1, 3)\nBEGIN;\n${insert}SAVEPOINT s;\n${insert}"
		  . "PREPARE TRANSACTION 'ledger :number';\n\\if :dice = 1\nROLLBACK PREPARED 'ledger :number';\n"
		  . "\\else\nCOMMIT PREPARED 'ledger :number';\n\\endif\n");
	PostgreSQL::Test::Utils::append_to_file("$self->{base}/$_.sql", $scripts{$_}) for keys %scripts;
	# psql prints an id when the commit has been acknowledged.
	PostgreSQL::Test::Utils::append_to_file("$self->{base}/writer.sql",
		"INSERT INTO ledger (note) VALUES ('writer') RETURNING id; SELECT FROM pg_sleep(0.01);\n" x 6000);
	return;
}

# Starts the load: clients of pgbench at a rate of transactions a second, and the writer; it ends by itself
# after so many seconds, or with the server. prepared: also two-phase commits.
sub start
{
	my ($self, %options) = @_;
	my $node = $options{node} // $self->{node};
	my $seconds = $options{seconds} // 1;
	my $connection = $node->connstr($self->{database});
	my @files = map { ('-f', "$self->{base}/$_") } $options{prepared} ? ('plain.sql@3', 'prepared.sql@1') : 'plain.sql';
	$self->{output} = { map { $_ => '' } qw(pgbench writer pgbench_errors writer_errors) };
	my $output = $self->{output};
	# None reads the terminal, and what is said of broken connections is expected.
	$self->{load} = [
		IPC::Run::start([ 'pgbench', '-n', '-c', $options{clients} // 4, '-j', 2, '-T', $seconds, '-R', $options{rate} // 150,
				@files, $connection ], '<', \undef, '>', \$output->{pgbench}, '2>', \$output->{pgbench_errors}),
		IPC::Run::start([ 'timeout', $seconds, 'psql', '-qAtX', '-v', 'ON_ERROR_STOP=1', '-f', "$self->{base}/writer.sql",
				$connection ], '<', \undef, '>', \$output->{writer}, '2>', \$output->{writer_errors})
	];
	return;
}

# Waits for the load's end. What the writer's connection took with it is in doubt: the table decides.
sub end_load
{
	my $self = shift;
	$_->finish for @{ delete $self->{load} };
	$self->{acknowledged}{$_} = 1 for $self->{output}{writer} =~ /^(\d+)$/mg;
	return;
}

# The same, and then for a server at rest.
sub finish
{
	my $self = shift;
	$self->end_load if $self->{load};
	# Nobody else will end what a session prepared and left.
	my $node = $self->{node};
	$node->wait_back;
	my $left = 'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()';
	$self->sql("COMMIT PREPARED '$_'") for split /\n/, $self->sql($left);
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

# Something has done that, between these times.
sub disrupted { my ($self, $from, $to) = @_; push @{ $self->{disruptions} }, [ $from, $to ]; return; }

# What a server that has crashed at this time had recorded as settled, as far as it is still so, and what of that arrived later.
sub recorded_before
{
	my ($self, $crash) = @_;
	my @recorded = split /\n/, $self->sql("SELECT uuid FROM whisperer.history WHERE modified_date <= to_timestamp($crash)");
	my %seen = map { %$_ } values %{ $self->{seen} };
	return (scalar @recorded, grep { grep { $_ > $crash } @{ $seen{$_}{arrived} } } @recorded);
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

# Everything is settled and every callback made; then the three are compared. Returns how many rows. callbacks_may_fail: the function
# itself may have found no room for its row, and that is an error of its own, not to be repeated.
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
			cardinality(request_datetimes), (SELECT count(*) FROM called c WHERE c.uuid = w.uuid)
		FROM whisperer.webhook_events w WHERE event_type = 'ledger'}))
	{
		my ($uuid, $path, @values) = split /\|/, $line;
		$views{$path}{$uuid} = { map { $_ => shift @values } qw(id state attempts times called) };
	}
	my @disagreements;
	my $agree = sub {
		my ($what, @wrong) = @_;
		push @disagreements, "not so: $what: " . @wrong . ', such as ' . join ', ', @wrong[ 0 .. ($#wrong > 4 ? 4 : $#wrong) ] if @wrong;
	};
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
		# Sent, and the result not recorded: it was in flight when something broke.
		my @again = grep { $seen->{$_} && @{ $seen->{$_}{arrived} } > $deliveries->{$_}{attempts} } keys %$deliveries;
		$agree->("$path: only what was in flight was sent again", grep { !$self->_disrupted($seen->{$_}{arrived}) } @again);
		$again += @{ $seen->{$_}{arrived} } - $deliveries->{$_}{attempts} for @again;
	}
	my $most = $max_in_flight * @{ $self->{disruptions} };
	$agree->("no more is sent again than the $most that can be in flight", $again) if $again > $most;
	is(join("\n", @disagreements), '', "$name: the ledger agrees, @{[scalar @expected]} rows");
	$self->{again} = $again;
	return scalar @expected;
}

# Whether something broke between the first and the last of these times. The receiver may come late to what had been
# sent before it broke.
sub _disrupted
{
	my ($self, $arrived) = @_;
	my ($first, $last) = (sort { $a <=> $b } @$arrived)[ 0, -1 ];
	return grep { $first <= $_->[1] + 3 && $last >= $_->[0] } @{ $self->{disruptions} };
}

# A new page: what was judged is forgotten on all three sides. (prune() would ask the clock, and the clock may jump.)
sub turn_page
{
	my $self = shift;
	$self->sql('TRUNCATE ledger, called, whisperer.history, whisperer.event');
	$self->{$_} = {} for qw(acknowledged seen);
	$self->{disruptions} = [];
	return;
}

1;
