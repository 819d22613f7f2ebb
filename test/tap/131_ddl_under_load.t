# DROP EXTENSION and again CREATE EXTENSION, DROP DATABASE, RENAME, and every setting changed, all under load: what is committed
# arrives, nothing else does, and no session of a user notices.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
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
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	$ledger->start(seconds => 2, prepared => 1);
	$ledger->random_moment(0.7);
	$ledger->disrupt(sub {
		# It locks our tables before the user's, whose writers do it the other way round: PostgreSQL ends one of the two.
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
	$ledger->finish;
	$ledger->judge("round $round, DROP and CREATE EXTENSION", earlier => 1);
	$ledger->turn_page;
}

# --- a name changes (nobody may be connected: the load is over, its deliveries are not)
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	$ledger->start(seconds => 1, rate => 400);
	$ledger->finish;
	my ($old, $new) = ($ledger->{database}, "shop$round");
	$ledger->disrupt(sub { $node->safe_psql('postgres', "ALTER DATABASE $old RENAME TO $new") });
	$ledger->{database} = $new;
	$ledger->judge("round $round, RENAME");
	$ledger->turn_page;
}

# --- a database goes while its deliveries are under way; another's do not notice
my $kept = create_ledger('kept');
for my $round (1 .. Whisperer::Ledger::repetitions(20, 500))
{
	my $force = $round % 2 ? '' : ' WITH (FORCE)';
	my $dropped = create_ledger('dropped');
	$_->start(seconds => 1) for $kept, $dropped;
	$kept->random_moment(0.7);
	# Without FORCE PostgreSQL itself refuses as long as users are connected; ours do not count.
	$_->finish for $force ? () : @{ $dropped->{load} };
	my (undef, undef, $errors) = $node->psql('postgres', "DROP DATABASE dropped$force");
	is($errors, '', "round $round: DROP DATABASE$force under load");
	$_->finish for $force ? @{ $dropped->{load} } : ();
	$kept->finish;
	$kept->judge("round $round, DROP DATABASE$force, the other database");
	$kept->turn_page;
}
my $databases = $node->safe_psql('postgres', q{SELECT string_agg(oid::text, '|') FROM pg_database});
my @left = grep { !/^(launcher|(?:$databases)\.)/ } map { s{.*/}{}r } glob $node->data_dir . '/pg_whisperer/*';
is("@left", '', 'nothing of the dropped databases is left in the data directory');

# --- each setting changed and changed back, under load
my %other = (
	allowed_networks => '127.0.0.0/8, 10.0.0.0/8',
	ca_file => '/etc/ssl/certs/ca-certificates.crt',
	callback_timeout => '6s',
	max_attempts => 19,
	max_in_flight => 3,
	max_in_flight_per_subscription => 1,
	max_payload_size => '2MB',
	max_response_size => '0',
	request_timeout => '5,10',
	retention => '90 days',
	safety_scan_interval => '1s',
	trigger_errors => 'record',
	workers => 3);
# Off, or by way of a proxy that is not there, nothing arrives; and one needs a restart.
my %later = (enabled => 'off', max_databases => 65, proxy => 'http://127.0.0.1:9');
my @settings = split /\n/, $node->safe_psql('postgres', q{
	SELECT substr(name, 11) FROM pg_settings WHERE name LIKE 'whisperer.%' ORDER BY name});
is("@settings", join(' ', sort keys %other, keys %later), 'every setting is tried');
for my $round (1 .. Whisperer::Ledger::repetitions(2, 40))
{
	for my $setting (sort keys %other)
	{
		my $value = $kept->sql("SELECT quote_literal('$other{$setting}')");
		$kept->start(rate => 100);
		for my $change ("SET whisperer.$setting = $value", "RESET whisperer.$setting")
		{
			$kept->random_moment(0.2);
			# A new set of workers gives what is in flight its time to end: no disruption.
			$node->safe_psql('postgres', $_) for "ALTER SYSTEM $change", 'SELECT pg_reload_conf()';
		}
		$kept->finish;
		$kept->judge("round $round, $setting changed and changed back");
		$kept->turn_page;
	}
}
$kept->start(seconds => 1);
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM SET whisperer.enabled = off', 'SELECT pg_reload_conf()';
$node->poll_until('kept', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'kept'}, 'disabled');
$kept->finish;
cmp_ok($kept->sql('SELECT count(*) FROM whisperer.pending'), '>', 0, 'disabled: deliveries wait');
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM RESET whisperer.enabled', 'SELECT pg_reload_conf()';
$kept->judge('disabled and enabled again');
$kept->turn_page;

# Reload after reload.
$kept->start(seconds => 1);
$node->safe_psql('postgres', 'SELECT pg_reload_conf()') for 1 .. 50;
$kept->finish;
$kept->judge('50 reloads');

unlike($node->log_since($log), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)|crash of another/,
	'no process came to harm');
$node->stop;
done_testing();
