# A subscription of logical replication with two_phase: its apply worker prepares the publisher's transaction here, where a trigger
# raises an event, and commits it without a statement. The event is delivered then, and at once.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $publisher = Whisperer::Node->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
my $node = Whisperer::Node->started('main');

$_->safe_psql('postgres', 'CREATE TABLE item (id integer PRIMARY KEY)') for $publisher, $node;
$publisher->safe_psql('postgres', 'CREATE PUBLICATION items FOR TABLE item');
$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type('item');
	SELECT whisperer.subscribe('item', '@{[$receiver->url('/in')]}');
	CREATE TRIGGER raise AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION whisperer.deliver_event_trigger('item');
	ALTER TABLE item ENABLE ALWAYS TRIGGER raise});
my $connection = $publisher->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', "CREATE SUBSCRIPTION items CONNECTION '$connection' PUBLICATION items WITH (two_phase = true)");
$node->poll_until('postgres', q{SELECT subtwophasestate FROM pg_subscription}, 'e');

sub ids { return join ' ', sort map { $_->{body} =~ /"id": (\d+)/ } $receiver->requests(path => '/in') }

$publisher->safe_psql('postgres', 'INSERT INTO item VALUES (1)');
$receiver->await('/in', 1);
for my $id (2, 3, 4)
{
	$publisher->safe_psql('postgres', "BEGIN; INSERT INTO item VALUES ($id); PREPARE TRANSACTION 'p$id'");
	$node->poll_until('postgres', 'SELECT count(*) FROM pg_prepared_xacts', 1);
	$publisher->safe_psql('postgres', ($id == 3 ? 'ROLLBACK' : 'COMMIT') . " PREPARED 'p$id'");
	$node->poll_until('postgres', 'SELECT count(*) FROM pg_prepared_xacts', 0);
	$receiver->await('/in', $id == 2 ? 2 : 3) if $id != 3;
}
is(ids(), '1 2 4', 'delivered when it was committed, by no scan; what was rolled back is not');

# Prepared before the server is started anew, and committed by another apply worker.
$publisher->safe_psql('postgres', q{BEGIN; INSERT INTO item VALUES (5); PREPARE TRANSACTION 'p5'});
$node->poll_until('postgres', 'SELECT count(*) FROM pg_prepared_xacts', 1);
$node->wait_settled;
$node->restart;
$publisher->safe_psql('postgres', 'INSERT INTO item VALUES (6)');
$receiver->await('/in', 4);
$publisher->safe_psql('postgres', q{COMMIT PREPARED 'p5'});
$receiver->await('/in', 5);
$node->wait_settled;
is(ids(), '1 2 4 5 6', 'after a restart, too');

$node->safe_psql('postgres', 'DROP SUBSCRIPTION items');
$_->stop for $node, $publisher;
done_testing();
