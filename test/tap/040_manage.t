# retry (parity row 38), cancel, prune (parity row 37) and wait_until_settled while other sessions do something to the same deliveries.
# Nothing is sent here (whisperer.enabled = off): the worker's part is played by a session.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Session;

my $node = Whisperer::Node->started('main', settings => 'whisperer.enabled = off');

my $columns = 'uuid, subscription_id, attempts, event_type, event_uuid, payload, request_datetimes, created_date';
my ($one, $two) = map { Whisperer::Session->new($node, $_) } qw(one two);

sub uuid { return sprintf '%08d-0000-0000-0000-000000000000', $_[0]; }
sub state { return $node->safe_psql('postgres', "SELECT string_agg(state, ',') FROM whisperer.webhook_events WHERE uuid = '@{[uuid($_[0])]}'"); }

# Deliveries by number: as (number, state).
sub fresh
{
	my %states = @_;
	$node->safe_psql('postgres', q{TRUNCATE whisperer.delivery, whisperer.history, whisperer.event});
	while (my ($number, $state) = each %states)
	{
		my $values = "'@{[uuid($number)]}', 1, 3, 'manage', NULL, '{}', '{}', now() - interval '1 day'";
		$node->safe_psql('postgres', $state eq 'pending'
			? "INSERT INTO whisperer.delivery ($columns, xid) VALUES ($values, pg_current_xact_id())"
			: "INSERT INTO whisperer.history ($columns, state, modified_date) VALUES ($values, '$state', now() - interval '1 day')");
	}
	return;
}

# What the worker does with the result of an attempt.
sub settle
{
	my ($number, $state) = @_;
	return "WITH m AS (DELETE FROM whisperer.delivery WHERE uuid = '@{[uuid($number)]}' RETURNING *)
		INSERT INTO whisperer.history ($columns, state, modified_date) SELECT $columns, '$state', now() FROM m";
}
sub retry { return "SELECT whisperer.retry('@{[uuid($_[0])]}')"; }
sub cancel { return "SELECT whisperer.cancel('@{[uuid($_[0])]}')"; }

$node->safe_psql('postgres', q{
	INSERT INTO whisperer.subscription (id, owner_oid, owner_name, owner_system, event_type, target_url)
	SELECT 1, oid, rolname, (SELECT system_identifier FROM pg_control_system()), 'manage', 'http://receiver.test/'
	FROM pg_roles WHERE rolname = current_user});

# One does something and stays in its transaction; two waits, and then: (name, state before, one's statement, how
# it ends, two's statement, two's answer, state after).
for my $case (
	[ 'retry while another retries', 'failed', retry(1), 'COMMIT', retry(1), '', 'pending' ],
	[ 'retry while another retries, and then does not', 'failed', retry(1), 'ROLLBACK', retry(1), '', 'pending' ],
	[ 'cancel while another retries', 'failed', retry(1), 'COMMIT', cancel(1), '', 'cancelled' ],
	[ 'cancel while another retries, and then does not', 'failed', retry(1), 'ROLLBACK', cancel(1), 'ERROR:  55000', 'failed' ],
	[ 'retry while another cancels', 'pending', cancel(1), 'COMMIT', retry(1), '', 'pending' ],
	[ 'cancel while another cancels', 'pending', cancel(1), 'COMMIT', cancel(1), '', 'cancelled' ],
	[ 'retry while it is delivered', 'pending', settle(1, 'delivered'), 'COMMIT', retry(1), 'ERROR:  WH005', 'delivered' ],
	[ 'retry while it fails', 'pending', settle(1, 'failed'), 'COMMIT', retry(1), '', 'pending' ],
	[ 'cancel while it is delivered', 'pending', settle(1, 'delivered'), 'COMMIT', cancel(1), 'ERROR:  WH005', 'delivered' ],
	[ 'retry while a retry is put off', 'pending',
		"UPDATE whisperer.delivery SET due = '2100-01-01', attempts = attempts + 1", 'COMMIT', retry(1), '', 'pending' ],
	[ 'cancel while a retry is put off', 'pending',
		"UPDATE whisperer.delivery SET due = '2100-01-01', attempts = attempts + 1", 'COMMIT', cancel(1), '', 'cancelled' ],
	[ 'retry while it is pruned', 'failed', q{SELECT whisperer.prune('1 hour')}, 'COMMIT', retry(1), 'ERROR:  WH003', '' ],
	[ 'retry_failed while another retries', 'failed', retry(1), 'COMMIT', 'SELECT whisperer.retry_failed()', '0', 'pending' ],
	[ 'retry_failed while another does all', 'failed', 'SELECT whisperer.retry_failed()', 'COMMIT',
		'SELECT whisperer.retry_failed()', '0', 'pending' ],
	[ 'retry_failed while another does all, and then does not', 'failed', 'SELECT whisperer.retry_failed()', 'ROLLBACK',
		'SELECT whisperer.retry_failed()', '1', 'pending' ],
	[ 'retry under REPEATABLE READ while it is delivered', 'pending', settle(1, 'delivered'), 'COMMIT',
		'BEGIN ISOLATION LEVEL REPEATABLE READ; ' . retry(1) . '; COMMIT', 'ERROR:  40001', 'delivered' ])
{
	my ($name, $before, $first, $end, $second, $answer, $after) = @$case;
	fresh(1 => $before);
	$one->run("BEGIN; $first");
	$two->start($second);
	$two->until_it_waits('Lock');
	$one->run($end);
	is($two->finish, $answer, "$name: the answer");
	is(state(1), $after, "$name: the delivery, once");
}
like($node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.delivery WHERE due IS NOT NULL'), qr/^0$/, 'no retry is put off');

# unsubscribe waits for whoever has a row, and then cancels that one, too.
fresh(1 => 'pending', 2 => 'pending', 3 => 'delivered');
$one->run(q{BEGIN; UPDATE whisperer.delivery SET due = '2100-01-01' WHERE uuid = '00000001-0000-0000-0000-000000000000'});
$two->start('BEGIN; SELECT whisperer.unsubscribe(1)');
$two->until_it_waits('Lock');
$one->run('COMMIT');
$two->finish;
is($two->run('SELECT string_agg(state, \',\' ORDER BY uuid) FROM whisperer.webhook_events'), 'cancelled,cancelled,delivered',
	'unsubscribe cancels what is pending');
$two->run('ROLLBACK');

# prune waits for nobody's row, and leaves it.
fresh(1 => 'failed', 2 => 'delivered', 3 => 'cancelled');
$one->run('BEGIN; ' . retry(1));
is($two->run(q{SELECT whisperer.prune('1 hour')}), '2', 'prune passes over what another session has');
$one->run('COMMIT');
is(state(1), 'pending', '... which stays');

# Two prunes of two deliveries of one event: its payload goes with the last.
fresh(1 => 'failed', 2 => 'delivered');
$node->safe_psql('postgres', q{
	INSERT INTO whisperer.event VALUES ('0000000e-0000-0000-0000-000000000000', '{}');
	UPDATE whisperer.history SET event_uuid = '0000000e-0000-0000-0000-000000000000', payload = NULL});
$one->run(q{BEGIN; SELECT whisperer.prune('1 hour', 1)});
$two->start(q{SELECT whisperer.prune('1 hour', 1)});
$two->until_it_waits('Lock');
$one->run('COMMIT');
is($two->finish, '1', 'two prunes at once: the second removes its own');
is($node->safe_psql('postgres', 'SELECT count(*) FROM whisperer.event'), '0', '... and the payload that both had in common');

# Waiting.
is($two->run(q{SELECT whisperer.wait_until_settled('0 s')}), 't', 'nothing to wait for');
for my $isolation ('READ COMMITTED', 'REPEATABLE READ')
{
	fresh(map { $_ => 'pending' } 1 .. 3);
	is($two->run(q{SELECT whisperer.wait_until_settled('0 s')}), 'f', 'something to wait for');
	$two->start("BEGIN ISOLATION LEVEL $isolation; SELECT whisperer.wait_until_settled('1 h'); COMMIT");
	$two->until_it_waits('Extension');
	$one->run(cancel($_)) for 1, 3;
	$node->safe_psql('postgres', "INSERT INTO whisperer.delivery ($columns, xid)
		VALUES ('@{[uuid(4)]}', 1, 0, 'manage', NULL, '{}', '{}', now(), pg_current_xact_id())");
	$two->until_it_waits('Extension');
	is($two->{out}, '', "$isolation: one of three is pending: it waits");
	$one->run(cancel(2));
	is($two->finish, 't', "$isolation: the last one settled: it returns, whatever was raised meanwhile");
}
# What another session, or the process of a custom countdown, hands to the worker anew was there all the same.
for my $adopted ('NULL', q{'2100-01-01'})
{
	fresh(1 => 'pending');
	$two->start(q{SELECT whisperer.wait_until_settled('1 h')});
	$two->until_it_waits('Extension');
	$one->run('BEGIN; ' . retry(1) . "; UPDATE whisperer.delivery SET due = $adopted; COMMIT");
	# It looks every second.
	$node->let_pass(4);
	$two->until_it_waits('Extension');
	is($two->{out}, '', "retried meanwhile, due $adopted: it still waits");
	$one->run(cancel(1));
	is($two->finish, 't', '... until it is settled');
}
fresh(1 => 'pending');
my $start = time();
is($two->run(q{SELECT whisperer.wait_until_settled('300 ms')}), 'f', 'the time is up');
cmp_ok(time() - $start, '>=', 0.3, '... not before');
is($two->run(q{SET statement_timeout = '200 ms'; SELECT whisperer.wait_until_settled('1 h')}), 'ERROR:  57014', 'statement_timeout holds');
$two->run('RESET statement_timeout');
is($two->run(q{SELECT whisperer.wait_until_settled('0 s')}), 'f', 'and the session is as before');

# A delivery is counted once, however often it is retried; and as cancelled what is so at the commit.
fresh();
$node->safe_psql('postgres', q{SELECT whisperer.register_event_type('manage'); SELECT whisperer.reset_statistics()});
my $counted = 'SELECT events, deliveries, cancelled, failed FROM whisperer.statistics';
my $delivery = $node->safe_psql('postgres', q{SELECT (whisperer.deliver_event('{}'::jsonb, 'manage'))[1]});
my ($cancel, $retry) = map { "SELECT whisperer.$_('$delivery')" } qw(cancel retry);
$node->safe_psql('postgres', $retry) for 1 .. 3;
is($node->safe_psql('postgres', $counted), '1|1|0|0', 'statistics: retries are no deliveries');
$node->safe_psql('postgres', "BEGIN; $cancel; $retry; SAVEPOINT s; $cancel; $retry; ROLLBACK TO s; $cancel; SAVEPOINT t; $retry; $cancel; COMMIT");
is($node->safe_psql('postgres', $counted), '1|1|1|0', '... cancelled several times in a transaction is cancelled once');
$node->safe_psql('postgres', "BEGIN; $retry; $cancel; $retry; COMMIT");
is($node->safe_psql('postgres', $counted), '1|1|1|0', '... or not at all');
$node->safe_psql('postgres', settle(1, 'failed') =~ s/'[0-9-]{36}'/'$delivery'/r);
is($node->safe_psql('postgres', "SELECT whisperer.retry_failed(); $counted"), "1\n1|1|1|0", '... nor does retry_failed make deliveries');
like($two->run("BEGIN; $retry; SELECT whisperer.wait_until_settled()"), qr/ERROR:  55000$/, 'what is retried and not committed is not waited for');

$_->quit for $one, $two;
done_testing();
