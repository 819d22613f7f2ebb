# A hot standby does nothing until it is promoted; then it starts by itself.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $primary = Whisperer::Node->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->create_whisperer('postgres');
$primary->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/made')]}')});
$primary->delivery_pids('postgres');
# A request is under way while the backup is taken, however long that takes.
$receiver->answer('/slow', { hang => 'request' });
$primary->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('slow');
	SELECT whisperer.subscribe('slow', '@{[$receiver->url('/slow')]}', config => '{"request_timeout": 600}');
	SELECT whisperer.deliver_event('{}'::jsonb, 'slow')});
$receiver->await('/slow', 1);
$primary->backup('base');
$receiver->answer('/slow', { status => 200 });
$receiver->release('/slow');
$primary->wait_settled;

my $standby = Whisperer::Node->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
# The backup was taken in the middle of a row of crashes: the next start would have to wait for minutes.
my $file = $standby->data_dir . '/pg_whisperer/launcher';
my ($head, $oid, $started) = slurp_file($file) =~ /^(.*)\n(\d+) 0 1 (\d+)$/m or die "$file: " . slurp_file($file);
open(my $launcher, '>', $file) or die "$file: $!";
print $launcher "$head\n$oid 9 1 $started\n";
close $launcher or die "$file: $!";
$standby->start;

# What the primary sends does not come from the standby, too.
$primary->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made')});
$primary->wait_settled;
$primary->wait_for_catchup($standby);
is($receiver->count(path => '/made'), 1, 'delivered once');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'whisperer%'}),
	0, 'no process on a standby');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM whisperer.workers'), 0, 'and the view says so');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM whisperer.webhook_events'), 2, 'the views can be read');
is($standby->safe_psql('postgres', 'SELECT sum(in_flight) FROM whisperer.subscription_health'), 0, 'nothing is in flight');
like(
	($standby->psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made')}))[2],
	qr/cannot execute .* (during recovery|in a read-only transaction)/,
	'an event cannot be raised');

# What was not sent when the primary went is sent by the new one.
$primary->safe_psql('postgres', 'ALTER SYSTEM SET whisperer.enabled = off');
$primary->safe_psql('postgres', 'SELECT pg_reload_conf()');
$primary->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
$primary->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}'::jsonb, 'made') FROM generate_series(1, 4)});
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
is($receiver->count(path => '/made'), 1, 'nothing is sent before the promotion');
$standby->promote;
$standby->delivery_pids('postgres');
unlike($standby->log_since(0), qr/in flight at a crash/, 'nor was anything at a crash of its own');
pass('the crashes were those of the server that the backup is of');
$standby->wait_settled;
is($receiver->count(path => '/made'), 5, 'the promoted server sends what is pending');

$standby->stop;
done_testing();
