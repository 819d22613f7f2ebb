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
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	$ledger->start(prepared => 1, errors => $deadlock);
	$ledger->begun;
	$ledger->random_moment(0.3);
	$ledger->disrupt(sub {
		my $dropped = 0;
		for (1 .. 20)
		{
			my $code = $node->psql('shop', 'DROP EXTENSION whisperer CASCADE', stderr => \my $error, on_error_die => 0);
			$dropped = $code == 0 and last;
			die "DROP EXTENSION: $error" unless $error =~ /deadlock detected/;
		}
		die "DROP EXTENSION lost twenty times\n" unless $dropped;
		$ledger->random_moment(0.3);
		$node->create_whisperer('shop');
	});
	$ledger->attach;
	$ledger->written(20);
	$ledger->finish;
	$ledger->judge("round $round, DROP and CREATE EXTENSION", earlier => 1, least => 20);
	$ledger->turn_page;
}

# --- a name changes (nobody may be connected: the load is over, its deliveries are not)
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	$ledger->start(rate => 400);
	$ledger->begun;
	$ledger->written(100);
	$ledger->finish;
	my ($old, $new) = ($ledger->{database}, "shop$round");
	$ledger->disrupt(sub { $node->safe_psql('postgres', "ALTER DATABASE $old RENAME TO $new") });
	$ledger->{database} = $new;
	$ledger->judge("round $round, RENAME");
	$ledger->turn_page;
}

# --- a database goes while its deliveries are under way; another's do not notice
my $kept = create_ledger('kept');
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
		$dropped->finish unless $force;
		my (undef, undef, $errors) = $node->psql('postgres', "DROP DATABASE dropped$force");
		is($errors, '', "round $round: DROP DATABASE$force under load");
		$dropped->end_load;
		is("@{ $dropped->{noticed} }", '', 'and its sessions notice nothing else');
	}
	$kept->finish;
	$kept->judge("DROP DATABASE $times times, the other database");
	$kept->turn_page;
}
my $databases = $node->safe_psql('postgres', q{SELECT string_agg(oid::text, '|') FROM pg_database});
my @left = grep { !/^(launcher|(?:$databases)\.)/ } map { s{.*/}{}r } glob $node->data_dir . '/pg_whisperer/*';
is("@left", '', 'nothing of the dropped databases is left in the data directory');

# --- each setting changed and changed back, again and again, under load
$receiver->behave(path => '*', port => 'proxy', steps => [ { tunnel => \1 } ]);
my %other = (
	allowed_networks => '127.0.0.0/8, 10.0.0.0/8',
	ca_file => '/etc/ssl/certs/ca-certificates.crt',
	callback_timeout => '6s',
	enabled => 'off',
	max_attempts => 19,
	max_databases => 65,
	max_in_flight => 3,
	max_in_flight_per_subscription => 1,
	max_payload_size => '2MB',
	max_response_size => '0',
	proxy => $receiver->url('', port => 'proxy'),
	request_timeout => '5,10',
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
			# A new set of workers gives what is in flight its time to end, and so does a server that stops: no disruption.
			$session //= $node->background_psql('postgres');
			$session->query_safe($_) for "ALTER SYSTEM $change", 'SELECT pg_reload_conf()';
			next unless $restart;
			$session->quit;
			undef $session;
			$node->restart;
			is($value->($setting), $change =~ /^SET/ ? $other{$setting} : $default, "$change");
		}
		$session->quit if $session;
		$kept->finish;
		cmp_ok($receiver->count(port => 'proxy'), '>', 0, 'some go by way of the proxy') if $setting eq 'proxy';
		like($node->log_since($position), qr/parameter "whisperer\.$setting" changed to/, "$setting was changed") unless $restart;
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
