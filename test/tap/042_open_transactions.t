# What users leave open, and roles that go: no delivery of anybody else waits for it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;
use Time::HiRes qw(time);

use Whisperer::Node;
use Whisperer::Receiver;

my $node = Whisperer::Node->started('main', settings => "autovacuum = off");
my $receiver = Whisperer::Receiver->new;
my $url = $receiver->url('/in');
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '$url')});

# Raises one event and waits for it.
sub arrives
{
	my ($what, $type, $path) = @_;
	$type //= 't';
	my $before = $receiver->count(path => $path // '/in');
	$node->safe_psql('postgres', "SELECT whisperer.deliver_event(jsonb_build_object('what', '$what'), '$type')");
	$receiver->await($path // '/in', $before + 1);
	return;
}
# A worker that waited for a lock would say so when its patience is over, and deliver then.
my $gave_up = qr/could not work on its tables/;
arrives('first');

my $open = $node->background_psql('postgres');
$node->safe_psql('postgres', 'CREATE ROLE leaver; CREATE ROLE renamed');
for my $role (qw(leaver renamed))
{
	$node->safe_psql('postgres', qq{
		SELECT whisperer.register_event_type('of $role');
		SELECT whisperer.grant_access('$role', 'subscribe')});
	my $target = $receiver->url("/$role");
	$node->safe_psql('postgres', qq{SET ROLE $role; SELECT whisperer.subscribe('of $role', '$target')});
}

# --- the role is dropped while the worker is idle
$node->safe_psql('postgres', q{SELECT whisperer.revoke_access('leaver', 'subscribe')});
$node->wait_settled;
$node->safe_psql('postgres', 'DROP ROLE leaver');
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 1}', 'of leaver')});
arrives('later');
is($receiver->count(path => '/leaver'), 0, 'nothing is sent for an owner that was dropped while nothing happened');

# --- a subscription is changed in an open transaction, and its owner renamed
arrives('role', 'of renamed', '/renamed');
$open->query_safe(q{BEGIN; SELECT whisperer.update_subscription(id, '{"config": {"a": 1}}') FROM whisperer.subscriptions WHERE owner = 'renamed'});
$node->safe_psql('postgres', 'ALTER ROLE renamed RENAME TO other_name');
arrives('and now'); # the worker learns of the new name with it
arrives('while it is locked');
unlike($node->log_since(0), $gave_up, 'a role renamed whose subscription is locked holds up no delivery');
$open->query_safe('COMMIT');
arrives('afterwards');

# --- reset_statistics() in an open transaction
arrives('before');
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.statistics_total', '1');
$open->query_safe('BEGIN; SELECT whisperer.reset_statistics()');
arrives('counted');
# The worker saves its counters every ten seconds: it must have come to it.
my $end = time + 12;
arrives('meanwhile') while time < $end;
unlike($node->log_since(0), $gave_up, 'an open reset_statistics() holds up no delivery');
$open->query_safe('COMMIT');

$open->quit;
$node->stop;
done_testing();
