# A worker whose transactions fail, the first or another, tries again after a moment, longer each time: neither at once nor at the
# next safety scan, which is an hour away.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $url = $receiver->url('/in');
$receiver->answer('/in', { status => 500 });
sql(qq{SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '$url', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 1}}', config => '{"max_attempts": 1000}')});
sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 't')});
$receiver->await('/in', 1);

# What it reads first is not there for a while. The delivery is a retry, so that nothing announces it.
my $log = $node->log_position;
my $failures = q{SELECT xact_rollback FROM pg_stat_database WHERE datname = 'postgres'};
my $others = sql($failures);
sql('ALTER TABLE whisperer.subscription RENAME TO elsewhere');
my ($old) = $node->delivery_pids('postgres');
sql("SELECT pg_terminate_backend($old, 30000)");
$node->wait_for_log(qr/whisperer could not work on its tables in database "postgres": relation "whisperer.subscription"/, $log);
$node->poll_until('postgres', "SELECT ($failures) >= $others + 3");
cmp_ok(sql($failures) - $others, '<', 50, 'it rests between its attempts');
my $before = $receiver->count(path => '/in');
sql('ALTER TABLE whisperer.elsewhere RENAME TO subscription');
$receiver->await('/in', $before + 1);
pass('it goes on by itself when the table is back');
my $said = () = $node->log_since($log) =~ /could not work on its tables/g;
is($said, 1, 'and said it once');

# The same of reading, while subscriptions can be loaded all the time.
$log = $node->log_position;
$others = sql($failures);
sql('ALTER TABLE whisperer.event RENAME TO elsewhere');
$node->wait_for_log(qr/whisperer could not work on its tables in database "postgres": relation "whisperer.event"/, $log);
$node->poll_until('postgres', "SELECT ($failures) >= $others + 4");
$said = () = $node->log_since($log) =~ /could not work on its tables/g;
is($said, 1, 'what it cannot read is said once, though it can read something else');
$before = $receiver->count(path => '/in');
sql('ALTER TABLE whisperer.elsewhere RENAME TO event');
$receiver->await('/in', $before + 1);
pass('and it goes on');
$node->stop;
done_testing();
