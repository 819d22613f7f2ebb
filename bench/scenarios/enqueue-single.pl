# What raising an event costs a transaction of one insert: pgbench, eight clients, with a row trigger and one subscription, and
# without; sending off. With sending on it is reported only: sender and receiver have the same processors. PGBENCH_SECONDS (4)
use strict;
use warnings;

use Bench qw(size runs record);

my $clients = 8;
my $database;

sub tps
{
	my $table = shift;
	$database->sql('CHECKPOINT');
	return Bench::Pgbench::run($database, "INSERT INTO $table (a) VALUES ($Bench::Database::filler)",
		clients => $clients, seconds => size('PGBENCH_SECONDS', 4));
}

sub pending { return $database->sql('SELECT count(*) FROM whisperer.pending'); }

return {
	figures => [
		{ name => 'ratio', label => "TPS with trigger ÷ without, $clients clients, sending off", target => 0.75, aim => 0.9 },
		{ name => 'plain', label => 'without trigger', unit => 'TPS', digits => 0 },
		{ name => 'off', label => 'with trigger, sending off', unit => 'TPS', digits => 0 },
		{ name => 'on', label => 'with trigger, sending on', unit => 'TPS', digits => 0 },
		{ name => 'on ratio', label => 'TPS with trigger, sending on ÷ without trigger' },
	],
	run => sub {
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		$database = $server->database;
		$database->subscribe('t', $nginx->url);
		$database->make_table('item', 't', each_row => 1);
		$database->make_table('plain');
		for my $run (1 .. runs())
		{
			$server->sending_off;
			$database->clean('item', 'plain');
			my $plain = tps('plain');
			my $off = tps('item');
			my $rows = $database->sql('SELECT count(*) FROM item');
			my $pending = pending();
			die "$rows rows raised $pending deliveries\n" if $rows != $pending || !$rows;
			$database->clean('item', 'plain');
			$server->sending_on;
			my $on = tps('item');
			$server->wait_settled('postgres', 120);
			$database->verify($database->sql('SELECT count(*) FROM item'));
			record($run, 'plain', $plain);
			record($run, 'off', $off);
			record($run, 'on', $on);
			record($run, 'ratio', $off / $plain);
			record($run, 'on ratio', $on / $plain);
		}
		$server->stop;
	},
};
