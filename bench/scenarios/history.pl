# Whether a long history makes sending or looking slower: a database with one and a database without, in one server, drained in
# turn (from the first request to the last record); and how long each view takes to show what one looks for, planning included,
# as the owner of the subscriptions, who is no superuser. HISTORY (10000000), DELIVERIES (100000), LOOKS (50)
use strict;
use warnings;

use Bench qw(size runs record);
use Bench::Rows qw(multiply uuid_at);

# %s is a uuid or the subscription of a row that is there.
my @looks = (
	[ 'events by uuid', uuid => 'SELECT * FROM whisperer.webhook_events WHERE uuid = %s' ],
	[ 'events by subscription', subscription_id => 'SELECT * FROM whisperer.webhook_events WHERE subscription_id = %s ORDER BY modified_date DESC LIMIT 50' ],
	[ 'events by failed', subscription_id => q{SELECT * FROM whisperer.webhook_events WHERE state = 'failed' ORDER BY modified_date DESC LIMIT 50} ],
	[ 'failed by uuid', uuid => 'SELECT * FROM whisperer.failed WHERE uuid = %s' ],
	[ 'failed by subscription', subscription_id => 'SELECT * FROM whisperer.failed WHERE subscription_id = %s ORDER BY modified_date DESC LIMIT 50' ],
	[ 'pending by uuid', uuid => 'SELECT * FROM whisperer.pending WHERE uuid = %s' ],
	[ 'pending by subscription', subscription_id => 'SELECT * FROM whisperer.pending WHERE subscription_id = %s ORDER BY modified_date DESC LIMIT 50' ],
	[ 'health by subscription', subscription_id => 'SELECT * FROM whisperer.subscription_health WHERE subscription_id = %s' ],
);
my $subscriptions = 100;

sub prepare
{
	my ($database, $nginx) = @_;
	$database->sql('CREATE ROLE owner')
	  if $database->sql(q{SELECT count(*) FROM pg_roles WHERE rolname = 'owner'}) == 0;
	my $url = $nginx->url('/1');
	$database->sql(qq{SELECT whisperer.grant_access('owner', 'subscribe'), whisperer.register_event_type('t');
		SET ROLE owner; SELECT whisperer.subscribe('t', '$url', '$Bench::Database::secret'); RESET ROLE});
	$database->make_table('item', 't');
	return;
}

# So many settled deliveries of the last thirty days, one in a hundred failed, of a hundred subscriptions of the owner's.
sub make_history
{
	my ($database, $nginx, $count) = @_;
	my $server = $database->{server};
	$database->insert('item', 1);
	$server->wait_settled($database->{name}, 60);
	$database->verify(1);
	my $url = $nginx->url('/');
	$database->sql(qq{SET ROLE owner; SELECT whisperer.subscribe('t', '$url' || n) FROM generate_series(2, $subscriptions) n;
		SELECT whisperer.update_subscription(id, '{"is_active": false}') FROM whisperer.subscriptions WHERE target_url <> '${url}1';
		RESET ROLE});
	my $ids = $database->sql('SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM whisperer.subscriptions');
	my $time = "date_trunc('hour', now()) - interval '30 days' + n * (interval '30 days' / ($count + 1))";
	multiply($database, 'history', $count,
		uuid => uuid_at("($time)"),
		subscription_id => "('{$ids}'::bigint[])[1 + n % $subscriptions]",
		state => q{CASE WHEN n / 100 % 100 = 0 THEN 'failed' ELSE 'delivered' END},
		response_http_status => 'CASE WHEN n / 100 % 100 = 0 THEN 500 ELSE 200 END',
		request_datetimes => "ARRAY[$time]",
		created_date => $time,
		modified_date => $time);
	return;
}

# The median time of a view's query over rows taken from all of the history, by the server's own clock, milliseconds.
sub look_time
{
	my ($database, $of, $query) = @_;
	my $looks = size('LOOKS', 50);
	my $samples = $database->sql("SELECT string_agg(quote_literal($of), ' ') FROM
		(SELECT $of FROM whisperer.history TABLESAMPLE SYSTEM (0.5) LIMIT 100000) s");
	my @samples = split / /, $samples;
	die "only @{[scalar @samples]} rows to look for\n" if @samples < $looks;
	my @chosen = map { $samples[ int($_ * @samples / $looks) ] } 0 .. $looks - 1;
	my $queries = join ', ', map { my $text = $query =~ s/%s/$_/r; "\$q\$$text\$q\$" } @chosen;
	return $database->sql("SET ROLE owner; SELECT bench_median_time(ARRAY[$queries]); RESET ROLE");
}

return {
	large => 1,
	figures => [
		{ name => 'ratio', label => 'rate with a long history ÷ without', target => 0.9, aim => 0.98 },
		{ name => 'long', label => 'rate with a long history', unit => '/s', digits => 0 },
		{ name => 'none', label => 'rate without', unit => '/s', digits => 0 },
		map { { name => $_->[0], label => "view: $_->[0]", unit => 'ms', target => 5, aim => 1, less => 1 } } @looks
	],
	run => sub {
		my $deliveries = size('DELIVERIES', 100_000);
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my %database = (long => $server->database, none => $server->database('without'));
		prepare($_, $nginx) for $database{long}, $database{none};
		make_history($database{long}, $nginx, size('HISTORY', 10_000_000));
		$database{long}->sql(q{
			CREATE FUNCTION bench_median_time(queries text[]) RETURNS double precision LANGUAGE plpgsql AS $$
			DECLARE
				query text;
				begun timestamptz;
				times double precision[];
			BEGIN
				FOREACH query IN ARRAY queries LOOP
					begun := clock_timestamp();
					EXECUTE query;
					times := times || extract(epoch FROM clock_timestamp() - begun) * 1000;
				END LOOP;
				RETURN percentile_cont(0.5) WITHIN GROUP (ORDER BY t) FROM unnest(times) t;
			END $$});
		for my $run (1 .. runs())
		{
			my %rate;
			for my $which ('none', 'long')
			{
				my $database = $database{$which};
				$server->sending_off;
				$database->mark;
				$database->load('item', $deliveries);
				$rate{$which} = $deliveries / $database->drain($deliveries, nginx => $nginx)->{sending};
				$database->sql('TRUNCATE item');
				record($run, $which, $rate{$which});
			}
			$database{none}->clean;
			record($run, 'ratio', $rate{long} / $rate{none});
			record($run, $_->[0], look_time($database{long}, $_->[1], $_->[2])) for @looks;
		}
		$server->stop;
	},
};
