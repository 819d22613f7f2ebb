# A session that prepared its statements while the tables were empty, as they are after a quiet night, goes on to find rows by
# index when they are large: no table is read from end to end.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Test::More;

use Whisperer::Node;

my $node = Whisperer::Node->started('main', settings => "autovacuum = off\nwhisperer.enabled = off");
$node->safe_psql('postgres', q{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', 'http://192.0.2.1/0');
	VACUUM ANALYZE});

my $each = q{
	FOR i IN 1 .. 10 LOOP
		u := (whisperer.deliver_event('{"a": 1}'::jsonb, 't'))[1];
		PERFORM whisperer.retry(u);
		PERFORM whisperer.cancel(u);
		PERFORM whisperer.retry(u);
		PERFORM whisperer.cancel(u);
		PERFORM whisperer.deliver_event('{"a": 1}', 't', true, NULL, '{"wanted": 1}');
		PERFORM whisperer.retry_failed();
		PERFORM whisperer.prune('1 year');
	END LOOP;};
my $scans = q{
	SELECT pg_stat_force_next_flush();
	SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables
	WHERE schemaname = 'whisperer' AND relname IN ('delivery', 'history', 'event', 'subscription')};

my $session = $node->background_psql('postgres');
$session->query_safe("DO \$\$ DECLARE u uuid; BEGIN $each END \$\$");
$session->query_safe(q{SELECT whisperer.wait_until_settled('0 s') FROM generate_series(1, 10)});

$node->safe_psql('postgres', q{
	SELECT count(whisperer.subscribe('t', 'http://192.0.2.1/' || n)) FROM generate_series(1, 200) n;
	SELECT count(whisperer.deliver_event(jsonb_build_object('n', n), 't')) FROM generate_series(1, 100) n});
my $before = (split /\n/, $node->safe_psql('postgres', $scans))[-1];
$session->query_safe("DO \$\$ DECLARE u uuid; BEGIN $each END \$\$");
is($session->query_safe(q{SELECT whisperer.wait_until_settled('0 s')}), 'f', 'thousands of deliveries are pending');
$session->query_safe('SELECT pg_stat_force_next_flush()');
$session->query_safe('SELECT 1');
my $after = (split /\n/, $node->safe_psql('postgres', $scans))[-1];
cmp_ok($after - $before, '<', 1000, 'and were not read from end to end');

$session->quit;
$node->stop;
done_testing();
