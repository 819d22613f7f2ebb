# DROP EXTENSION and again CREATE EXTENSION, DROP DATABASE, RENAME, and every setting changed, all under load: what is committed
# arrives, nothing else does, and no session of a user notices (the ledger asks pgbench and the writer).
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new(listen => [ { name => 'main' }, { name => 'proxy' } ]);
my $node = Whisperer::Node->started('main', settings => $Whisperer::Ledger::settings);
my $log = $node->log_position;

sub create_ledger
{
	my ($database) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->create_whisperer($database);
	return Whisperer::Ledger->new($node, $receiver, database => $database, prefix => "/$database");
}

# --- the extension goes and comes again; rows raise events while it is there
my $ledger = create_ledger('shop');
# It locks our tables before the user's, whose writers do it the other way round: PostgreSQL ends the transaction of one of the two.
my $deadlock = qr/deadlock detected|ends the failed transaction/;
my $drop = 'DROP EXTENSION whisperer CASCADE';
# With what is known of each row until then. From the lock on nobody writes any more.
my $copy_and_drop = qq{
	BEGIN;
	LOCK TABLE ledger IN SHARE ROW EXCLUSIVE MODE;
	CREATE TABLE before_drop AS
		SELECT l.id, w.uuid, regexp_replace(w.target_url, '.*/', '/') AS path, w.state::text AS state, w.retry_count
		FROM ledger l LEFT JOIN whisperer.webhook_events w
			ON w.event_type = 'ledger' AND w.request_payload->'payload'->>'id' = l.id::text;
	$drop;
	COMMIT};

sub drop_extension
{
	my ($statements) = @_;
	for (1 .. 20)
	{
		my $code = $node->psql('shop', $statements, stderr => \my $error, on_error_die => 0);
		return if $code == 0;
		die "DROP EXTENSION: $error" unless $error =~ /deadlock detected/;
	}
	die "DROP EXTENSION lost twenty times\n";
}

# What had been done of what went with the extension. Returns how many deliveries were pending then.
sub judge_copy
{
	my ($name) = @_;
	my $seen = $ledger->{seen};
	my ($pending, $last, %deliveries, %copied, @wrong) = (0, 0);
	for my $line (split /\n/, $ledger->sql('SELECT id, uuid, path, state, retry_count FROM before_drop'))
	{
		my ($id, $uuid, $path, $state, $attempts) = split /\|/, $line, -1;
		$last = $id if $id > $last;
		$deliveries{$id}{$path}++;
		$copied{$uuid} = 1;
		my $arrived = $seen->{$path}{$uuid} ? @{ $seen->{$path}{$uuid}{arrived} } : 0;
		# Until the DROP has its locks results are recorded, and others sent: for how many there is time, is not known.
		my $most = $state eq 'delivered' ? $attempts : $path eq '/plain' ? 1 : 2;
		push @wrong, "$path $uuid: $state, attempts $attempts, arrived $arrived"
		  if $state !~ /^(?:pending|delivered)$/ || $arrived < $attempts || $arrived > $most;
		$pending++ if $state eq 'pending';
	}
	for my $path ('/plain', '/flaky')
	{
		push @wrong, map { "$path: not one delivery of row $_" } grep { ($deliveries{$_}{$path} // 0) != 1 } keys %deliveries;
		push @wrong, map { "$path $_: arrived, and was not there" }
		  grep { $seen->{$path}{$_}{id} <= $last && !$copied{$_} } keys %{ $seen->{$path} };
	}
	is(join("\n", @wrong), '', "$name: before it, too, @{[scalar keys %deliveries]} rows, $pending deliveries pending");
	$ledger->sql('DROP TABLE before_drop');
	return $pending;
}

my $went = 0;
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	# At times alone, as users do it: with the table's lock before it there is hardly ever a deadlock.
	my $copied = $round % 4 != 0;
	$ledger->start(prepared => 1, errors => $deadlock);
	$ledger->begun;
	$ledger->random_moment(0.3);
	$ledger->disrupt(sub {
		drop_extension($copied ? $copy_and_drop : $drop);
		$ledger->random_moment(0.3);
		$node->create_whisperer('shop');
	});
	$ledger->attach;
	$ledger->written(20);
	$ledger->finish;
	$ledger->judge("round $round, DROP and CREATE EXTENSION", earlier => 1, least => 20);
	$went += judge_copy("round $round") if $copied;
	$ledger->turn_page;
}
cmp_ok($went, '>', 0, 'deliveries went with the extension');

# Answers that come so late that requests are under way at a statement, however long it takes to begin: for many seconds in all.
my @slow = ({ status => 200, delay => { headers => 3000 } });
my $many = q{INSERT INTO ledger (note) SELECT 'at once' FROM generate_series(1, 150)};
$node->safe_psql('postgres', q{
	CREATE FUNCTION under_way(wanted text) RETURNS boolean LANGUAGE plpgsql AS $$
		DECLARE
			until timestamptz := clock_timestamp() + interval '60 s';
		BEGIN
			WHILE clock_timestamp() < until LOOP
				IF EXISTS (SELECT FROM whisperer.workers WHERE kind = 'delivery' AND database = wanted AND in_flight > 0) THEN
					RETURN true;
				END IF;
				PERFORM pg_sleep(0.005); -- tested: sleeps
			END LOOP;
			RETURN false;
		END $$});

# Executes it while requests of the database are under way. PostgreSQL itself waits five seconds for the session that was there last.
sub is_done_meanwhile
{
	my ($database, $statement, $name) = @_;
	$node->await_alone($database) unless $statement =~ /FORCE/;
	my (undef, $under_way, $errors) = $node->psql('postgres', "SELECT under_way('$database');\n$statement");
	is("$under_way|$errors", 't|', "$name, requests under way");
	return;
}

# --- a name changes (nobody may be connected: the load is over, its deliveries are not)
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	$ledger->start(rate => 400);
	$ledger->begun;
	$ledger->written(50);
	$ledger->finish;
	my ($old, $new) = ($ledger->{database}, "shop$round");
	$receiver->answer('/shop/plain', @slow);
	$ledger->sql($many);
	$ledger->disrupt(sub { is_done_meanwhile($old, "ALTER DATABASE $old RENAME TO $new", "round $round: RENAME") });
	$receiver->answer('/shop/plain', { status => 200 });
	$ledger->{database} = $new;
	$ledger->judge("round $round, RENAME");
	$ledger->turn_page;
}

# --- a database goes while its deliveries are under way; another's do not notice
my $kept = create_ledger('kept');
$receiver->answer('/dropped/plain', @slow);
for my $times (Whisperer::Ledger::pages(20, 500))
{
	for my $round (1 .. $times)
	{
		my $force = $round % 2 ? '' : ' WITH (FORCE)';
		my $dropped = create_ledger('dropped');
		$kept->keep_up;
		$dropped->start(sessions_end => $force);
		$dropped->begun;
		$kept->random_moment(0.3);
		# Without FORCE PostgreSQL itself refuses as long as users are connected; ours do not count.
		unless ($force) { $dropped->finish; $dropped->sql($many); }
		is_done_meanwhile('dropped', "DROP DATABASE dropped$force", "round $round: DROP DATABASE$force under load");
		$dropped->end_load;
		is("@{ $dropped->{noticed} }", '', 'and its sessions notice nothing else');
	}
	$kept->finish;
	$kept->judge("DROP DATABASE $times times, the other database");
	$kept->turn_page;
}
my $databases = $node->safe_psql('postgres', q{SELECT string_agg(oid::text, '|') FROM pg_database});
my @left;
# The launcher takes it away.
$node->await(sub { !(@left = grep { !/^(launcher|(?:$databases)\.)/ } map { s{.*/}{}r } glob $node->data_dir . '/pg_whisperer/*') },
	sub { "the end of @left" });
pass('nothing of the dropped databases is left in the data directory');

# --- each setting changed and changed back, again and again, under load
$receiver->behave(path => '*', port => 'proxy', steps => [ { tunnel => \1 } ]);
my %other = (
	allowed_networks => '127.0.0.0/8, 10.0.0.0/8',
	ca_file => '/etc/ssl/certs/ca-certificates.crt',
	callback_timeout => '50s',
	enabled => 'off',
	max_attempts => 19,
	max_databases => 65,
	max_in_flight => 3,
	max_in_flight_per_subscription => 1,
	max_payload_size => '2MB',
	max_response_size => '0',
	proxy => $receiver->url('', port => 'proxy'),
	request_timeout => '50,70',
	retention => '90 days',
	safety_scan_interval => '1s',
	trigger_errors => 'record',
	workers => 3);
my @settings = split /\n/, $node->safe_psql('postgres', q{
	SELECT substr(name, 11) FROM pg_settings WHERE name LIKE 'whisperer.%' ORDER BY name});
is("@settings", join(' ', sort keys %other), 'every setting is tried');
my $value = sub { return $node->safe_psql('kept', "SHOW whisperer.$_[0]") };
for my $setting (@settings)
{
	# One needs a restart; and a restart is tried elsewhere.
	my $restart = $setting eq 'max_databases';
	my $default = $value->($setting);
	for my $times (Whisperer::Ledger::pages($restart ? 2 : 20, $restart ? 20 : 500))
	{
		my $position = $node->log_position;
		my $session;
		for my $change (map { ("SET whisperer.$setting = '$other{$setting}'", "RESET whisperer.$setting") } 1 .. $times)
		{
			$kept->keep_up(rate => 100, sessions_end => $restart);
			$kept->random_moment(0.1);
			# A new set of workers gives what is in flight its time to end: no disruption.
			$session //= $node->background_psql('postgres');
			my ($before, $end) = ($session->query_safe("SHOW whisperer.$setting"), time() + $PostgreSQL::Test::Utils::timeout_default);
			$session->query_safe($_) for "ALTER SYSTEM $change", 'SELECT pg_reload_conf()';
			# Two reloads could be one: it is seen before the next.
			usleep(5_000) until $restart || $session->query_safe("SHOW whisperer.$setting") ne $before || time() > $end;
			next unless $restart;
			$session->quit;
			undef $session;
			$kept->patiently(sub { $node->stop });
			$node->start;
			is($value->($setting), $change =~ /^SET/ ? $other{$setting} : $default, "$change");
		}
		$session->quit if $session;
		$kept->finish;
		cmp_ok($receiver->count(port => 'proxy'), '>', 0, 'some go by way of the proxy') if $setting eq 'proxy';
		my $changes = () = $node->log_since($position) =~ /parameter "whisperer\.$setting" (?:changed to|removed from configuration file)/g;
		cmp_ok($changes, '>=', 2 * $times, "$setting was changed and changed back each time") unless $restart;
		$kept->judge("$setting changed and changed back, $times times");
		$kept->turn_page;
	}
}
$kept->start;
$kept->begun;
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM SET whisperer.enabled = off', 'SELECT pg_reload_conf()';
$node->poll_until('kept', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'kept'}, 'disabled');
my $already = $kept->sql('SELECT count(*) FROM ledger');
$kept->written($already + 20);
$kept->finish;
cmp_ok($kept->sql('SELECT count(*) FROM whisperer.pending'), '>', 0, 'disabled: deliveries wait');
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM RESET whisperer.enabled', 'SELECT pg_reload_conf()';
$kept->judge('disabled and enabled again');
$kept->turn_page;

# Reload after reload.
$kept->start;
$kept->begun;
$node->safe_psql('postgres', 'SELECT pg_reload_conf()') for 1 .. 50;
$kept->finish;
$kept->judge('50 reloads');

unlike($node->log_since($log), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)|crash of another/,
	'no process came to harm');
$node->stop;
done_testing();
