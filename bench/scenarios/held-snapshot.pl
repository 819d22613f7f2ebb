# Whether a snapshot that somebody holds, so that vacuum removes nothing, makes sending slower. Rates are from the first request
# to the last record. WAITING (200000)
use strict;
use warnings;

use Bench qw(size runs record);

return {
	figures => [
		{ name => 'ratio', label => 'rate with a snapshot held ÷ without', target => 0.9, aim => 0.98 },
		{ name => 'held', label => 'rate with a snapshot held', unit => '/s', digits => 0 },
		{ name => 'free', label => 'rate without', unit => '/s', digits => 0 },
	],
	run => sub {
		my $waiting = size('WAITING', 200_000);
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		$database->subscribe('t', $nginx->url);
		$database->make_table('item', 't');
		my $holder = $server->session('postgres');
		my $rate = sub {
			my $held = shift;
			$server->sending_off;
			$database->clean('item');
			$database->load('item', $waiting);
			# Of a table that TRUNCATE does not touch; taken when all is waiting and nothing sent.
			$holder->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM whisperer.subscriptions') if $held;
			my $rate = $waiting / $database->drain($waiting, nginx => $nginx)->{sending};
			$holder->query('COMMIT') if $held;
			return $rate;
		};
		for my $run (1 .. runs())
		{
			my $free = $rate->(0);
			my $held = $rate->(1);
			record($run, 'free', $free);
			record($run, 'held', $held);
			record($run, 'ratio', $held / $free);
		}
		$server->stop;
	},
};
