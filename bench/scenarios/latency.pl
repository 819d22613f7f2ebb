# From commit to arrival: on an idle server beside NOTIFY to a LISTENing client, one of each in turn; and at a steady rate of
# single-event commits. The NOTIFY compared with is in a transaction that writes a row, as the event's does: a NOTIFY alone commits
# without waiting for the disk, which is reported, too. EVENTS (300), COMMITS_PER_SECOND (1000), LATENCY_SECONDS (10)
use strict;
use warnings;

use Bench qw(size runs record run_tool tool);

my $rate = size('COMMITS_PER_SECOND', 1000);

return {
	figures => [
		{ name => 'idle ratio', label => 'p50 commit to arrival, idle ÷ p50 NOTIFY to LISTEN', target => 3, aim => 1.5, less => 1 },
		{ name => 'bare ratio', label => '… ÷ p50 of a NOTIFY that writes nothing' },
		{ name => 'idle p50', label => 'p50 commit to arrival, idle', unit => 'ms' },
		{ name => 'idle p99', label => 'p99 commit to arrival, idle', unit => 'ms' },
		{ name => 'notify p50', label => 'p50 NOTIFY to LISTEN, with a row written', unit => 'ms' },
		{ name => 'bare p50', label => 'p50 NOTIFY to LISTEN, without', unit => 'ms' },
		{ name => 'rate ratio', label => "p99 ÷ p50 at $rate commits/s", target => 5, aim => 3, less => 1 },
		{ name => 'rate p50', label => "p50 commit to arrival at $rate commits/s", unit => 'ms' },
		{ name => 'rate p99', label => "p99 commit to arrival at $rate commits/s", unit => 'ms' },
	],
	run => sub {
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		my $port = Bench::Nginx::free_port();
		$database->subscribe($_, "http://127.0.0.1:$port/$_") for 'idle', 'rate0';
		my ($events, $seconds) = (size('EVENTS', 300), size('LATENCY_SECONDS', 10));
		for my $run (1 .. runs())
		{
			$server->wait_settled('postgres', 60);
			$database->clean;
			$database->sql('CHECKPOINT');
			my ($p50, $p99, $notify, $bare) =
			  split / /, run_tool(tool('latency'), 'idle', $database->connection, $port, 'idle', $events);
			record($run, 'idle ratio', $p50 / $notify);
			record($run, 'bare ratio', $p50 / $bare);
			record($run, 'idle p50', $p50);
			record($run, 'idle p99', $p99);
			record($run, 'notify p50', $notify);
			record($run, 'bare p50', $bare);

			my ($busy, $busy99, undef, $reached) = split / /,
			  run_tool(tool('latency'), 'rate', $database->connection, $port, 'rate', 1, $rate, $seconds, 16);
			die "only $reached commits/s of $rate\n" if $reached < 0.95 * $rate;
			record($run, 'rate ratio', $busy99 / $busy);
			record($run, 'rate p50', $busy);
			record($run, 'rate p99', $busy99);
			$server->wait_settled('postgres', 60);
			$database->verify($events + $rate * $seconds);
		}
		$server->stop;
	},
};
