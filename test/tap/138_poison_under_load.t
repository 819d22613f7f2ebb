# A delivery that brings the worker down each time it is sent, as a fault in a library would, under load: it is given up after the
# crashes in which it was alone, no innocent one with it, the rest arrives, and the server is up most of the time.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Ledger;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "$Whisperer::Ledger::settings\nwhisperer.request_timeout = 600");
my $ledger = Whisperer::Ledger->new($node, $receiver);
$receiver->answer('/poison', { hang => 'request' });
$ledger->sql(qq{
	SELECT whisperer.register_event_type('poison');
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/poison')]}')});

my $log = $node->log_position;
my @ready = ('pg_isready', '-q', '-h', $node->host, '-p', $node->port);
my $given_up = q{SELECT count(*) FROM whisperer.failed WHERE event_type = 'poison'};
$ledger->start(seconds => 1);
$ledger->sql(q{SELECT whisperer.deliver_event('{}', 'poison')});
my ($crashes, $up, $looks) = (0, 0, 0);
my $start = time();
my $end = $start + $PostgreSQL::Test::Utils::timeout_default;
my $over = 0;
until ($over || time() > $end)
{
	$looks++;
	if ($receiver->count(path => '/poison') > $crashes)
	{
		# The receiver has it: the worker goes down.
		my ($pid) = $node->delivery_pids('postgres');
		$ledger->disrupt(sub {
			kill 'KILL', $pid or die "kill: $!";
			$node->wait_for_log(qr/\(PID $pid\) was terminated by signal 9/, $log);
		});
		$crashes++;
		# Users come back at once.
		$ledger->finish;
		$ledger->start(seconds => 1);
	}
	elsif (system(@ready) == 0)
	{
		$up++;
		$over = $node->safe_psql('postgres', $given_up) eq '1';
	}
	usleep(50_000);
}
ok($over, 'it was given up');
my $minutes = (time() - $start) / 60;
note sprintf '%d crashes in %.1f minutes; up at %d of %d looks', $crashes, $minutes, $up, $looks;
cmp_ok($crashes, '>=', 3, 'not before three crashes');
cmp_ok($crashes, '<=', 6, 'and soon after them');
cmp_ok($up, '>', 0.8 * $looks, 'the server was up most of the time');
like($node->safe_psql('postgres', q{SELECT error FROM whisperer.failed}),
	qr/^given up: the delivery worker crashed 3 times while this delivery alone was in flight/, 'with its reason');
$ledger->finish;
is($node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.failed'), '1', 'no innocent one with it');
$ledger->judge('all others');
$node->stop;
done_testing();
