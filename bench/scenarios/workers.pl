# Two workers beside one, with receivers that are fast: many subscriptions, since one is always one worker's.
# DELIVERIES (100000)
use strict;
use warnings;

use Bench qw(size runs record wait_for);
use Bench::Process qw(cores);

my $subscriptions = 16;
my $cores = cores();

return {
	figures => [
		{ name => 'ratio', label => "rate with 2 workers ÷ with 1, on $cores processors" },
		{ name => 'one', label => 'rate with 1 worker', unit => '/s', digits => 0 },
		{ name => 'two', label => 'rate with 2 workers', unit => '/s', digits => 0 },
	],
	run => sub {
		my $deliveries = size('DELIVERIES', 100_000);
		my $events = int($deliveries / $subscriptions);
		$deliveries = $events * $subscriptions;
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		for my $n (1 .. $subscriptions)
		{
			$database->subscribe("t$n", $nginx->url("/$n"));
			$database->make_table("item$n", "t$n");
		}
		my $rate = sub {
			my $workers = shift;
			$server->set('whisperer.workers' => $workers);
			$server->delivery_pids('postgres', $workers);
			$server->sending_off;
			$database->clean(map { "item$_" } 1 .. $subscriptions);
			$database->insert("item$_", $events) for 1 .. $subscriptions;
			$database->sql('CHECKPOINT');
			return $deliveries / $database->drain($deliveries, nginx => $nginx)->{sending};
		};
		for my $run (1 .. runs())
		{
			my $one = $rate->(1);
			my $two = $rate->(2);
			record($run, 'one', $one);
			record($run, 'two', $two);
			record($run, 'ratio', $two / $one);
		}
		$server->stop;
	},
};
