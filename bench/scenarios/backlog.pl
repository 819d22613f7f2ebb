# Whether much that waits makes sending slower or the worker larger. Rates are from the first request to the last record.
# BACKLOG (1000000), SMALL_BACKLOG (10000)
use strict;
use warnings;

use Bench qw(size runs record median);
use Bench::Process qw(private_memory);

return {
	large => 1,
	figures => [
		{ name => 'ratio', label => 'rate with a large backlog ÷ with a small one', target => 0.9, aim => 0.98 },
		{ name => 'memory', label => "worker's private memory over idle", unit => 'MB', digits => 1, target => 64, aim => 16, less => 1 },
		{ name => 'large', label => 'rate with a large backlog', unit => '/s', digits => 0 },
		{ name => 'small', label => 'rate with a small backlog', unit => '/s', digits => 0 },
	],
	run => sub {
		my ($large, $small) = (size('BACKLOG', 1_000_000), size('SMALL_BACKLOG', 10_000));
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		$database->subscribe('t', $nginx->url);
		$database->make_table('item', 't');
		$database->sql('SELECT 1');
		my $worker = $database->worker;
		my $idle = private_memory($worker);    # of a worker that has sent nothing yet

		my $rate = sub {
			my ($count, %options) = @_;
			$server->sending_off;
			$database->clean('item');
			$database->load('item', $count);
			return $count / $database->drain($count, nginx => $nginx, %options)->{sending};
		};
		for my $run (1 .. runs())
		{
			my $most = 0;
			my $polls = 0;
			my $sample = sub {
				return if $polls++ % 50;
				my $memory = private_memory($worker);
				$most = $memory if $memory > $most;
			};
			my $small_rate = median(map { $rate->($small) } 1 .. 5);
			my $large_rate = $rate->($large, sample => $sample);
			die "the worker was replaced\n" if $database->worker != $worker;
			record($run, 'small', $small_rate);
			record($run, 'large', $large_rate);
			record($run, 'ratio', $large_rate / $small_rate);
			record($run, 'memory', $most - $idle);
		}
		$server->stop;
	},
};
