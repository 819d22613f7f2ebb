# A delivery that was alone in flight when the worker crashed, three times, is given up, and says why; the others are delivered
# all the same; retry() revives it.  A delivery in company is not blamed.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "restart_after_crash = on\nwhisperer.request_timeout = 600");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(qq{SELECT whisperer.register_event_type(t) FROM unnest('{poison,good}'::text[]) t;
	SELECT whisperer.subscribe('poison', '@{[$receiver->url('/poison')]}', config => '{"max_attempts": 50}');
	SELECT whisperer.subscribe('good', '@{[$receiver->url('/good')]}')});
$receiver->answer('/poison', { hang => 'request' });

# Kills the worker, and waits until the server is back and a worker is there again.
sub crash
{
	my ($pid) = $node->delivery_pids('postgres');
	my $log = $node->log_position;
	kill 'KILL', $pid or die "kill: $!";
	$node->wait_for_log(qr/\(PID $pid\) was terminated by signal 9/, $log);
	$node->wait_for_log(qr/database system is ready to accept connections/, $log);
	ok($node->poll_query_until('postgres', 'SELECT true'), 'the server is back');
	return;
}

# Alone in flight at three crashes.
my $poison = sql(q{SELECT unnest(whisperer.deliver_event('{"n": 1}', 'poison'))});
for my $crash (1 .. 3)
{
	$receiver->await('/poison', $crash);
	# What the crash before this one was followed by has been recorded, too.
	$node->poll_until('postgres', q{SELECT string_agg(uuid::text, ' ') FROM whisperer.in_flight_list()}, $poison);
	pass("alone in flight before crash $crash");
	crash();
	sql(q{SELECT whisperer.deliver_event('{}', 'good')});
	$receiver->await('/good', $crash);
	pass("after crash $crash others are delivered");
}
$node->poll_until('postgres', "SELECT state FROM whisperer.webhook_events WHERE uuid = '$poison'", 'failed');
like(sql("SELECT error FROM whisperer.failed WHERE uuid = '$poison'"), qr/given up: the delivery worker crashed 3 times while this delivery alone was in flight/, 'given up, with the reason');
is(sql("SELECT next_attempt_at IS NULL AND response_http_status IS NULL FROM whisperer.failed WHERE uuid = '$poison'"), 't', '... and that is all');
is($receiver->count(path => '/poison'), 3, 'it was not sent again');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.in_flight_list()}, 0);
pass('nothing is in flight');

# A restart does not forget, and does not fail it twice.
$node->restart;
sql(q{SELECT whisperer.deliver_event('{}', 'good')});
$receiver->await('/good', 4);
is(sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$poison'"), 'failed', 'a restart changes nothing');

# Revived, its past does not count: it is sent.
$receiver->answer('/poison', { status => 200 });
sql("SELECT whisperer.retry('$poison')");
$receiver->await('/poison', 4);
$node->wait_settled;
is(sql("SELECT state, error IS NULL FROM whisperer.webhook_events WHERE uuid = '$poison'"), 'delivered|t', 'revived, it is sent');

# In company nobody is to blame: several in flight at a crash, and all are delivered in the end.
$receiver->forget;
sql(q{SELECT whisperer.deliver_event('{}', t) FROM unnest('{poison,good}'::text[]) t, generate_series(1, 40)});
$node->wait_settled;
$receiver->forget;
$receiver->answer('/poison', { hang => 'request' });
my @company = split /\n/, sql(q{SELECT unnest(whisperer.deliver_event('{}', 'poison')) FROM generate_series(1, 5)});
$receiver->await('/poison', 5);
crash();
$receiver->answer('/poison', { status => 200 });
# The first may have been sent again already.
$receiver->release('/poison');
$node->wait_settled;
is(sql("SELECT count(*) FROM whisperer.webhook_events WHERE delivered AND uuid IN ('" . join("', '", @company) . "')"), 5, 'five in flight at a crash: all are delivered afterwards');
$node->stop;
done_testing();
