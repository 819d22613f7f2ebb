# Two deliveries each of which brings the worker down whenever it is sent: both are given up after three crashes in which they
# were alone in flight. While one of them is tried, the other's crashes are not forgotten.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;
use Time::HiRes qw(time usleep);

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 600');
my $receiver = Whisperer::Receiver->new;
$receiver->answer($_, { hang => 'request' }) for '/1', '/2';
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('poison');
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/1')]}');
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/2')]}')});

my $requests = sub { $receiver->count(path => '/1') + $receiver->count(path => '/2') };
my $given_up = sub {
	$node->safe_psql('postgres', q{SELECT count(*) FROM whisperer.failed WHERE error ~ 'given up'});
};
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 1}', 'poison')});

# Two crashes with both in flight, and then three with each alone.
my $most_crashes = 2 + 3 + 3;
my $crashes = 0;
my $sent = 0;
my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
while ($crashes <= $most_crashes)
{
	# The first two times both are sent at once.
	my $wanted = $crashes < 2 ? 2 : 1;
	usleep(20_000) until $requests->() >= $sent + $wanted || $given_up->() == 2 || time() > $end;
	die 'neither was sent, nor given up' if time() > $end;
	last if $given_up->() == 2;
	$node->stop('immediate');
	$crashes++;
	$sent = $requests->();
	# The launcher would wait longer each time.
	unlink $node->data_dir . '/pg_whisperer/launcher';
	$node->start;
}
is($given_up->(), 2, 'both were given up');
is($crashes, $most_crashes, 'after as many crashes as it takes');

# They can be revived, and then have done nothing yet.
$receiver->answer($_, { status => 200 }) for '/1', '/2';
$node->safe_psql('postgres', 'SELECT whisperer.retry(uuid) FROM whisperer.failed');
$node->wait_settled;
is($node->safe_psql('postgres', 'SELECT bool_and(delivered) FROM whisperer.webhook_events'), 't', 'and can be revived');

$node->stop;
done_testing();
