# Whether receivers that hang or refuse delay the others: p99 from commit to arrival of a hundred subscriptions whose receivers
# are well, with and without a hundred that hang and a hundred that refuse. Each subscription gets five events a second. The bad
# ones are new in each run: nothing is known of them yet when their first events come.
# ISOLATION_SECONDS (8), HEALTHY (100), BAD (100 of each)
use strict;
use warnings;

use IO::Socket::INET;

use Bench qw(size runs record run_tool tool);

my $each = 5;    # events a second

return {
	figures => [
		{ name => 'ratio', label => 'p99 with hanging and refusing receivers ÷ without', target => 1.5, aim => 1.1, less => 1 },
		{ name => 'with', label => 'p99 with them', unit => 'ms' },
		{ name => 'without', label => 'p99 without', unit => 'ms' },
		{ name => 'with p50', label => 'p50 with them', unit => 'ms' },
		{ name => 'without p50', label => 'p50 without', unit => 'ms' },
	],
	run => sub {
		my ($seconds, $healthy, $bad) = (size('ISOLATION_SECONDS', 8), size('HEALTHY', 100), size('BAD', 100));
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		my $port = Bench::Nginx::free_port();
		$database->subscribe("healthy$_", "http://127.0.0.1:$port/$_") for 0 .. $healthy - 1;
		# The kernel takes connections that nobody ever accepts: requests arrive and are not answered.
		my $hangs = IO::Socket::INET->new(Listen => 4096, LocalAddr => '127.0.0.1') or die "no port: $!\n";
		my %bad = (hanging => $hangs->sockport, refusing => Bench::Nginx::free_port());
		$database->sql("SELECT whisperer.register_event_type('$_')") for sort keys %bad;

		my $measure = sub {
			$database->sql('CHECKPOINT');
			$database->mark;
			my @lines = run_tool(tool('latency'), 'rate', $database->connection, $port, 'healthy', $healthy,
				$each * $healthy, $seconds, 8);
			my ($p50, $p99, undef, $reached) = split / /, $lines[0];
			die "only $reached commits/s\n" if $reached < 0.95 * $each * $healthy;
			return ($p50, $p99);
		};
		for my $run (1 .. runs())
		{
			$database->clean;
			my ($quiet50, $quiet99) = $measure->();
			$server->wait_settled('postgres', 60);
			$database->verify($each * $healthy * $seconds);

			for my $type (sort keys %bad)
			{
				$database->sql("SELECT whisperer.subscribe('$type', 'http://127.0.0.1:$bad{$type}/$run/' || n)
					FROM generate_series(1, $bad) n");
			}
			my $raise = "SELECT whisperer.deliver_event('{\"a\": 1}', 'hanging'), whisperer.deliver_event('{\"a\": 1}', 'refusing')";
			my $pgbench = Bench::Pgbench::start($database, $raise, clients => 1, seconds => $seconds + 1, rate => $each);
			my ($p50, $p99) = $measure->();
			my @said = <$pgbench>;
			close $pgbench or die "pgbench failed:\n@said";
			my ($attempted, $delivered) = split /\|/, $database->sql(q{SELECT count(*) FILTER (WHERE retry_count > 0),
				count(*) FILTER (WHERE delivered) FROM whisperer.webhook_events WHERE event_type IN ('hanging', 'refusing')});
			die "of the bad ones $attempted were attempted, $delivered delivered\n" if !$attempted || $delivered;
			$database->sql("SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE target_url LIKE '%/$run/%'");
			$server->wait_settled('postgres', 60);
			record($run, 'without', $quiet99);
			record($run, 'with', $p99);
			record($run, 'without p50', $quiet50);
			record($run, 'with p50', $p50);
			record($run, 'ratio', $p99 / $quiet99);
		}
		$server->stop;
	},
};
