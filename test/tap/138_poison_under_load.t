# A delivery that brings the worker down each time it connects, is sent, or is answered, as a fault in a library would, under load:
# it is given up after the crashes in which it was alone, no innocent one with it, the rest arrives, and the server is up most of the
# time.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::Local qw(timegm);
use Time::HiRes qw(time usleep);
use Whisperer::Fault;
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new(listen => [ { name => 'main' }, { name => 'poison' } ]);
my $fault = Whisperer::Fault->new;
my $node = Whisperer::Node->new('main');
$node->init(settings => "$Whisperer::Ledger::settings\nwhisperer.request_timeout = 600");
$fault->preloaded(sub { $node->start });
$node->create_whisperer('postgres');
my $ledger = Whisperer::Ledger->new($node, $receiver);
$receiver->answer('/poison', { status => 200, headers => [ [ 'X-Answer', 'a poisonous one' ] ] });
# Long enough for others to be in flight with it.
$receiver->answer('/plain', { status => 200, delay => { headers => 50 } });
$ledger->sql(qq{
	SELECT whisperer.register_event_type('poison');
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/poison', port => 'poison')]}')});

# By which bytes, or port, it is known.
my %mark = (connects => $receiver->port('poison'), sends => 'POST /poison ', receives => 'a poisonous one');
my @cases = ([ 'sends', 'segv' ], [ 'receives', 'abort' ], [ 'connects', 'segv' ], [ 'sends', 'abort' ], [ 'receives', 'segv' ]);
my %signal = (segv => 11, abort => 6);
my @ready = ('pg_isready', '-q', '-h', $node->host, '-p', $node->port);
my ($company, $up, $down) = (0, 0, 0);

# Raises it, and users come back whenever the server is up, until it is given up. Returns the crashes.
sub crash_until_given_up
{
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	# Long enough to write something when a session takes long to begin, as under valgrind.
	my %load = (seconds => $ENV{WHISPERER_POSTGRES} ? 60 : 5, sessions_end => 1);
	# The first one ends with the first crash.
	$ledger->start(rate => 300, sessions_end => 1);
	$ledger->begun;
	$receiver->await('/plain', 20, brief => 1);
	# It may strike before this session has left.
	$node->psql('postgres', q{SELECT whisperer.deliver_event('{}', 'poison')}, on_error_die => 0);
	my $crashes = 0;
	for (;;)
	{
		die 'it was not given up' if time() > $end;
		if (system(@ready) == 0)
		{
			# It may go down meanwhile.
			my ($code, $given_up) = $node->psql('postgres', q{SELECT count(*) FROM whisperer.failed WHERE event_type = 'poison'},
				on_error_die => 0);
			last if $code == 0 && $given_up eq '1';
			$ledger->start(%load) unless $ledger->{load};
		}
		my $struck = $fault->strikes;
		$ledger->end_load if $struck > $crashes;
		$crashes = $struck;
		usleep(50_000);
	}
	$ledger->finish;
	# The last one may have struck since the last look.
	return scalar $fault->strikes;
}

# Each time at least three crashes: more than 20, or 500.
for my $round (1 .. Whisperer::Ledger::repetitions(7, 170))
{
	my ($point, $means) = @{ $cases[ ($round - 1) % @cases ] };
	my $name = "round $round, $means when it $point";
	my $log = $node->log_position;
	$ledger->forget_crashes;
	$fault->arm($point, $means, mark => $mark{$point});
	my $start = time();
	my $crashes = crash_until_given_up();
	$ledger->disrupted($_->{at}, $_->{at}) for $fault->strikes;
	$fault->disarm;
	note sprintf '%s: %d crashes in %.0f s', $name, $crashes, time() - $start;

	my $said = $node->log_since($log);
	my $signals = () = $said =~ /whisperer delivery.* was terminated by signal $signal{$means}\b/g;
	is($signals, $crashes, "$name: each crash is the one that was injected");
	$company = (sort { $b <=> $a } $company, $said =~ /found (\d+) deliveries of database "postgres" that were in flight/g)[0];
	cmp_ok($crashes, '>=', 3, "$name: not given up before three crashes");
	cmp_ok($crashes, '<=', 6, "$name: and soon after them");
	my @at = map { $_->{at} } $fault->strikes;
	cmp_ok($at[-1] - $at[-3], '>=', 1.9, "$name: a suspect waits for a second");
	# Until it was back, and until the next; what the machine needed for its restarts is the same in each round.
	my @ready;
	push @ready, timegm($6, $5, $4, $3, $2 - 1, $1) + "0.$7"
	  while $said =~ /^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)\.(\d+) UTC .* database system is ready to accept connections$/mg;
	for my $i (1 .. $#at)
	{
		my ($back) = grep { $_ > $at[ $i - 1 ] && $_ < $at[$i] } reverse @ready or die "$name: not back between two crashes\n";
		$down += $back - $at[ $i - 1 ];
		$up += $at[$i] - $back;
	}
	like($node->safe_psql('postgres', q{SELECT error FROM whisperer.failed}),
		qr/^given up: the delivery worker crashed 3 times while this delivery alone was in flight/, "$name: with its reason");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.failed'), '1', "$name: no innocent one with it");
	$ledger->judge("$name, all others");
	$ledger->turn_page;
}
note sprintf 'between crashes up for %.1f s, and down for %.1f s', $up, $down;
cmp_ok($up, '>', $down, 'the server was up most of the time') unless $ENV{WHISPERER_POSTGRES};
cmp_ok($company, '>', 1, "others were in flight with it: up to $company at once");
$node->stop;
done_testing();
