# A delivery that the worker has already read, but not sent, is not sent once it is cancelled; and a
# statement that raises more rows than fit into memory raises them all.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => "work_mem = 64kB\nwhisperer.request_timeout = 100");
my $receiver = Whisperer::Receiver->new;

$node->safe_psql('postgres', q{SELECT whisperer.register_event_type('t')});

# One request may be in flight. Once the receiver is known to be good, the worker reads ahead for it; then
# one request hangs, and the others wait behind it in the worker's memory.
$receiver->behave(path => '/in', steps => [ { status => 200 }, { hang => 'request' }, { status => 200 } ]);
my $url = $receiver->url('/in');
$node->safe_psql('postgres', qq{SELECT whisperer.subscribe('t', '$url', config => '{"max_in_flight": 1}')});
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 0}', 't')});
$node->wait_settled;
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event(jsonb_build_object('n', n), 't') FROM generate_series(1, 3) n});
$receiver->await('/in', 2);
my @uuids = split /\n/, $node->safe_psql('postgres',
	q{SELECT uuid FROM whisperer.pending ORDER BY (request_payload -> 'payload' ->> 'n')::int});
is(scalar @uuids, 3, 'three deliveries are pending');
my %hanging = map { $_->{id} => 1 } $receiver->requests(path => '/in');
my ($victim) = grep { !$hanging{$_} } @uuids;
$node->safe_psql('postgres', "SELECT whisperer.cancel('$victim')");
$receiver->release('/in');
$node->wait_settled;
my %sent = map { $_->{id} => 1 } $receiver->requests(path => '/in');
ok(!$sent{$victim}, 'the cancelled one was not sent');
is($node->safe_psql('postgres', "SELECT state FROM whisperer.webhook_events WHERE uuid = '$victim'"),
	'cancelled', 'and says so');

# A transition table that spills to disk.
my $bulk = $receiver->url('/bulk');
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('bulk');
	SELECT whisperer.subscribe('bulk', '$bulk');
	CREATE TABLE item (id int, filler text);
	CREATE TRIGGER all_rows AFTER INSERT ON item REFERENCING NEW TABLE AS rows
		FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('bulk')});
$node->safe_psql('postgres', q{INSERT INTO item SELECT n, repeat('x', 200) FROM generate_series(1, 3000) n});
$node->wait_settled;
is($receiver->count(path => '/bulk'), 3000, 'every row of a transition table on disk was delivered');

$node->stop;
done_testing();
