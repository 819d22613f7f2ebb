# Many deliveries that wait for retries, spread over the next hour: how long after a restart of the server until a new event is
# delivered, and how much memory the worker takes. The clock starts with the start of the server. RETRIES (1000000)
use strict;
use warnings;

use Bench qw(size runs record now wait_for);
use Bench::Process qw(private_memory);
use Bench::Rows qw(multiply uuid_at);

my $subscriptions = 100;

# One delivery that has failed once, made into many.
sub make_retries
{
	my ($database, $url, $count) = @_;
	my $closed = 'http://127.0.0.1:' . Bench::Nginx::free_port() . '/';
	$database->sql(qq{SELECT whisperer.register_event_type('retry');
		SELECT whisperer.subscribe('retry', '$closed', '$Bench::Database::secret',
			retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 7200}}');
		SELECT whisperer.deliver_event(jsonb_build_object('a', $Bench::Database::filler), 'retry')});
	wait_for('the first failure', 60, sub { $database->sql('SELECT retry_count FROM whisperer.pending') eq '1' });
	$database->sql(qq{
		SELECT whisperer.register_event_type('waiting');
		SELECT whisperer.subscribe('waiting', '$url' || n, '$Bench::Database::secret') FROM generate_series(1, $subscriptions) n});
	my $ids = $database->sql(q{SELECT string_agg(id::text, ',' ORDER BY id) FROM whisperer.subscriptions WHERE event_type = 'waiting'});
	multiply($database, 'delivery', $count,
		uuid => uuid_at('now()'),
		subscription_id => "('{$ids}'::bigint[])[1 + n % $subscriptions]",
		event_type => q{'waiting'},
		due => "now() + n * (interval '1 hour' / $count)");
	return;
}

return {
	large => 1,
	figures => [
		{ name => 'serving', label => 'start of the server until a new event is delivered', unit => 's', target => 5, aim => 1, less => 1 },
		{ name => 'memory', label => "worker's private memory over idle", unit => 'MB', digits => 1, target => 64, aim => 16, less => 1 },
		{ name => 'empty', label => 'the same start with none waiting', unit => 's' },
	],
	run => sub {
		my $count = size('RETRIES', 1_000_000);
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		$database->subscribe('new', $nginx->url('/new'));

		my $serve = sub {
			my $begin = $server->restart_fast;
			$database->reconnect;
			my $uuid = $database->sql(q{SELECT (whisperer.deliver_event('{"a": 1}', 'new'))[1]});
			wait_for('the new event', 120, sub {
				return $database->sql("SELECT state FROM whisperer.webhook_events WHERE uuid = '$uuid'") eq 'delivered';
			}, 0.005);
			return now() - $begin;
		};
		my @empty = map { $serve->() } 1 .. runs();
		my $idle = private_memory($database->worker);
		make_retries($database, $nginx->url('/'), $count);
		for my $run (1 .. runs())
		{
			record($run, 'serving', $serve->());
			my $worker = $database->worker;
			my $most = 0;
			for (1 .. 50)
			{
				my $memory = private_memory($worker);
				$most = $memory if $memory > $most;
				Time::HiRes::sleep(0.1);
			}
			record($run, 'memory', $most - $idle);
			record($run, 'empty', $empty[ $run - 1 ]);
		}
		# None was lost: sent when it was due, or waiting.
		my ($waiting, $sent, $other) = split /\|/, $database->sql(q{
			SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'delivered'),
				count(*) FILTER (WHERE state NOT IN ('pending', 'delivered'))
			FROM whisperer.webhook_events WHERE event_type = 'waiting'});
		die "of $count retries $waiting wait, $sent were delivered, and $other are something else\n"
		  if $waiting + $sent != $count || $other || !$waiting;
		$server->stop;
	},
};
