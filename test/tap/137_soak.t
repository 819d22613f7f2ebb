# Under steady load, and with receivers that do everything wrong, neither the open files nor the private memory of any whisperer process
# grows, nor those of a session that delivers by itself: half a minute in `make test`, an hour in `make test-long`
# (WHISPERER_SOAK_SECONDS for another time).
use strict;
use warnings;

use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Processes qw(private_memory open_files);
use Whisperer::Receiver;

my $seconds = $ENV{WHISPERER_SOAK_SECONDS} // ($ENV{WHISPERER_LONG} ? 3600 : 26);
my $page = max(3, min(30, $seconds / 8));
# Few at a time: what is more than these are connections is a leak.
my $in_flight = 24;
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "$Whisperer::Ledger::settings\nwhisperer.safety_scan_interval = '1s'\nwhisperer.max_in_flight = $in_flight");
my $ledger = Whisperer::Ledger->new($node, $receiver);

# Beside it time-outs, resets, TLS with who speaks none, a name that nobody has, and tokens that are refused; each is tried once.
my $login = $receiver->url('/noise-login');
my @noise = map { [$_] } $receiver->url('/noise-silent'), $receiver->url('/noise-reset'), $receiver->url('/noise-tls', scheme => 'https'), 'http://name.invalid/';
push @noise, [ $receiver->url('/noise-token'), qq(, "auth": {"auth_type": "token", "url": "$login", "username": "u", "password": "p"}) ];
$receiver->behave(path => '/noise-silent', steps => [ { hang => 'request' } ]);
$receiver->behave(path => '/noise-reset', steps => [ map { { cut => $_ } } qw(head request) ]);
$receiver->behave(path => '/noise-login', steps => [ { body => '{"key": "token"}' } ]);
$receiver->behave(path => '/noise-token', steps => [ { status => 401 } ]);
$node->safe_psql('postgres', q{SELECT whisperer.register_event_type('noise')});
$node->safe_psql('postgres', qq{SELECT whisperer.subscribe('noise', '$_->[0]', config => '{"request_timeout": 0.05, "max_attempts": 1@{[$_->[1] // '']}}')})
  for @noise;
my $session = $node->background_psql('postgres');
my $session_pid = $session->query_safe('SELECT pg_backend_pid()');
my ($noises, $logins, $refused) = (0, 0, 0);
sub make_noise
{
	$session->query_safe(q{SELECT whisperer.deliver_event('{}'::jsonb, 'noise', _async => false)});
	$session->query_safe(q{SELECT count(whisperer.deliver_event('{}'::jsonb, 'noise')) FROM generate_series(1, 4)});
	# A setting that judges connections closes them.
	my $networks = $noises % 2 ? q{'127.0.0.0/8, ::1/128'} : q{'127.0.0.0/8'};
	$node->safe_psql('postgres', $_) for "ALTER SYSTEM SET whisperer.allowed_networks = $networks", 'SELECT pg_reload_conf()';
	$noises++;
	return;
}

# By kind: what was seen in each page, [files, memory]. Processes that come and go are counted by their kind.
my %pages;
sub look
{
	my ($page) = @_;
	for my $line (split /\n/, $node->safe_psql('postgres', qq{
		SELECT pid, CASE pid WHEN $session_pid THEN 'whisperer session' ELSE backend_type END
		FROM pg_stat_activity WHERE backend_type LIKE 'whisperer %' OR pid = $session_pid}))
	{
		my ($pid, $kind) = split /\|/, $line;
		my ($files, $memory) = (open_files($pid), private_memory($pid));
		next unless defined $files && defined $memory;
		my $seen = $pages{$kind}[$page] //= [ 0, 0 ];
		$seen->[0] = max($seen->[0], $files);
		$seen->[1] = max($seen->[1], $memory);
	}
	return;
}

my $start = time();
my $rows = 0;
my $number = 0;
while (time() < $start + $seconds || $number < 6)
{
	$ledger->start(rate => 200, prepared => 1);
	$ledger->begun;
	# What a worker reads ahead at the most, it does in each page, also where it never has to wait for a processor.
	$ledger->sql(q{INSERT INTO ledger (note) SELECT 'at once' FROM generate_series(1, 1000)});
	my $end = time() + $page;
	while (time() < $end)
	{
		make_noise();
		look($number);
		usleep(100_000);
	}
	$ledger->finish;
	$node->wait_settled;
	$logins += $receiver->count(path => '/noise-login');
	$refused += $receiver->count(path => '/noise-token');
	$rows += $ledger->judge("page $number");
	is($ledger->{again}, 0, "page $number: nothing twice");
	$ledger->turn_page;
	$node->safe_psql('postgres', 'VACUUM');
	$number++;
}
note sprintf '%d rows and %d times noise in %.0f s; %d logins, %d tokens refused', $rows, $noises, time() - $start, $logins, $refused;
is($node->safe_psql('postgres', 'SELECT sum(failed) FROM whisperer.statistics'), 5 * @noise * $noises, 'whatever can fail has failed each time');
# What is sent together has one token; one that was refused is not used again.
cmp_ok($logins, '>=', $noises, 'each time a new token was asked for');
cmp_ok($refused, '>=', $noises, '... and refused');

# The first quarter is warming up; then the second half has no more than the rest.
# Under valgrind the memory is valgrind's, and a process takes longer to be there than a page lasts.
my @kinds = $ENV{WHISPERER_POSTGRES} ? () : qw(launcher delivery callback countdown session);
for my $kind (map { "whisperer $_" } @kinds)
{
	my @seen = @{ $pages{$kind} // [] };
	is(scalar(grep { defined } @seen), $number, "$kind was there all the time");
	my @early = grep { defined } @seen[ $number / 4 .. $number / 2 ];
	my @late = grep { defined } @seen[ $number / 2 + 1 .. $number - 1 ];
	die 'too few pages' unless @early && @late;
	# The worker keeps connections: how many there are at a time is a matter of luck, within the requests in flight.
	for my $what ([ 0, 'open files', $kind eq 'whisperer delivery' ? $in_flight : 8 ], [ 1, 'private memory (MB)', 1 ])
	{
		my ($column, $name, $slack) = @$what;
		my ($early, $late) = map { max(map { $_->[$column] } @$_) } \@early, \@late;
		note sprintf '%s: %s: %s, later %s', $kind, $name, $early, $late;
		cmp_ok($late, '<=', $early + $slack, "$kind: $name do not grow");
	}
}
unlike($node->log_since(0), qr/PANIC|was terminated by signal|exited with exit code (?![01]\b)/, 'no process came to harm');
$node->stop;
done_testing();
