# A delivery worker opens as many sockets as whisperer.max_in_flight takes: it raises its own limit of open files, and where the
# operating system allows no more it has fewer requests under way and says so, instead of failing attempts.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

# Valgrind keeps the upper ones for itself, and does not let a limit be raised.
plan skip_all => 'the limit of open files is valgrind\'s' if $ENV{WHISPERER_POSTGRES};

my $wanted = 300;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main',
	settings => "whisperer.max_in_flight = $wanted\nwhisperer.max_in_flight_per_subscription = $wanted\nwhisperer.request_timeout = 600");
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
my $in_flight = q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'};

# A worker that may open so many files: its limit, and the most that it may be raised to. Returns where the log was.
sub limit_files
{
	my ($soft, $hard) = @_;
	my ($old) = $node->delivery_pids('postgres');
	system_or_bail('prlimit', '--pid', $postmaster, "--nofile=$soft:$hard");
	my $log = $node->log_position;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
	$node->poll_until('postgres', qq{SELECT pid <> $old FROM whisperer.workers WHERE kind = 'delivery' AND pid IS NOT NULL});
	return $log;
}

# More deliveries than may be under way, to a receiver that is silent until this many are; then all arrive at the first attempt.
sub deliver
{
	my ($name, $expected) = @_;
	my $raise = sub { $node->safe_psql('postgres', "SELECT count(whisperer.deliver_event('{}'::jsonb, '$name')) FROM generate_series(1, $_[0])") };
	$node->safe_psql('postgres', qq{
		SELECT whisperer.register_event_type('$name');
		SELECT whisperer.subscribe('$name', '@{[$receiver->url("/$name")]}')});
	# It gets more at once as it proves itself.
	my $proof = 5 * $wanted;
	$raise->($proof);
	$node->wait_settled;
	$receiver->answer("/$name", { hang => 'request' });
	my $more = $wanted + 100;
	$raise->($more);
	$receiver->await("/$name", $proof + $expected, brief => 1);
	is($node->safe_psql('postgres', $in_flight), $expected, "$name: $expected requests are under way");
	$receiver->answer("/$name", { status => 200 });
	$receiver->release("/$name");
	$node->wait_settled;
	is($node->safe_psql('postgres', qq{
			SELECT state, error, count(*) FROM whisperer.webhook_events WHERE event_type = '$name' GROUP BY state, error}),
		'delivered||' . ($proof + $more), "$name: no attempt failed");
	# The next one gets every slot only if it is the only one.
	$node->safe_psql('postgres', 'SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE is_active');
	return;
}

# PostgreSQL's own are among them: this would not be enough.
my $log = limit_files($wanted, 4096);
deliver('raised', $wanted);
unlike($node->log_since($log), qr/requests under way/, 'nothing to say');

my $fewer = 40;
$log = limit_files($wanted - 50, 200 + 2 * $fewer);
deliver('fewer', $fewer);
$node->safe_psql('postgres', 'SELECT pg_reload_conf()') for 1 .. 3;
deliver('still', $fewer);
my $warning = qr/WARNING:  a delivery worker of whisperer can have only $fewer requests under way at once, not $wanted/;
my $said = () = $node->log_since($log) =~ /$warning/g;
is($said, 1, 'said once');
like($node->log_since($log), qr/DETAIL:  The operating system lets it open no more than @{[200 + 2 * $fewer]} files\./, 'why');
like($node->log_since($log), qr/HINT:  Raise the server's limit of open files .* or decrease whisperer\.max_in_flight/, 'what to do');

$log = $node->log_position;
$node->safe_psql('postgres', $_) for "ALTER SYSTEM SET whisperer.max_in_flight = $fewer", 'SELECT pg_reload_conf()';
deliver('asked', $fewer);
unlike($node->log_since($log), $warning, 'what is possible is no reason for a warning');

$node->stop;
done_testing();
