# What deliveries cost the machine, from the insert that raises them to the record: processor time of all server processes, and
# WAL, whole pages after a checkpoint included. The user's table is unlogged, so that the WAL is ours. DELIVERIES (100000)
use strict;
use warnings;

use Bench qw(size runs record);
use Bench::Process qw(processor_seconds);

return {
	figures => [
		{ name => 'processor', label => 'CPU seconds per 100,000 deliveries' },
		{ name => 'wal', label => 'WAL per delivery', unit => 'bytes', digits => 0 },
		{ name => 'enqueue processor', label => 'of that, raising the events: CPU seconds' },
		{ name => 'enqueue wal', label => 'of that, raising the events: WAL', unit => 'bytes', digits => 0 },
	],
	run => sub {
		my $deliveries = size('DELIVERIES', 100_000);
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		$database->subscribe('t', $nginx->url);
		$database->make_table('item', 't', unlogged => 1);
		my $wal = sub { return $database->sql(q{SELECT pg_current_wal_insert_lsn() - '0/0'}); };
		for my $run (1 .. runs())
		{
			$server->sending_off;
			$database->clean('item');
			$database->sql('CHECKPOINT');
			my @processor = processor_seconds($server->postmaster);
			my @wal = $wal->();
			$database->insert('item', $deliveries);
			push @processor, processor_seconds($server->postmaster);
			push @wal, $wal->();
			my $before = $nginx->requests;
			my $target = $database->delivered + $deliveries;
			$server->sending_on;
			$database->wait_delivered($target);
			push @processor, processor_seconds($server->postmaster);
			push @wal, $wal->();
			$database->verify($deliveries);
			my $got = $nginx->requests - $before;
			die "$got requests for $deliveries deliveries\n" if $got != $deliveries;
			my $per = 100_000 / $deliveries;
			record($run, 'processor', $per * ($processor[2] - $processor[0]));
			record($run, 'enqueue processor', $per * ($processor[1] - $processor[0]));
			record($run, 'wal', ($wal[2] - $wal[0]) / $deliveries);
			record($run, 'enqueue wal', ($wal[1] - $wal[0]) / $deliveries);
		}
		$server->stop;
	},
};
