# One event for many subscriptions: how long its transaction takes beside one that inserts as many plain rows; then all arrive.
# Each run is the median of ten pairs in turn. SUBSCRIPTIONS (1000)
use strict;
use warnings;

use Bench qw(size runs record now median);

return {
	figures => [
		{ name => 'ratio', label => 'event for many ÷ as many plain rows, time of the commit', target => 3, aim => 1.5, less => 1 },
		{ name => 'event', label => 'the event', unit => 'ms' },
		{ name => 'rows', label => 'the plain rows', unit => 'ms' },
		{ name => 'arrival', label => 'commit until the last is recorded', unit => 'ms', digits => 0 },
	],
	run => sub {
		my $subscriptions = size('SUBSCRIPTIONS', 1000);
		my $pairs = 10;
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		$database->subscribe('t', $nginx->url('/0'));
		my $url = $nginx->url;
		$database->sql("SELECT whisperer.subscribe('t', '$url' || n, '$Bench::Database::secret') FROM generate_series(2, $subscriptions) n");
		$database->sql(q{CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, subscription_id bigint,
			event_type text, created_date timestamptz DEFAULT now())});
		my %statement = (
			event => "SELECT cardinality(whisperer.deliver_event(jsonb_build_object('a', $Bench::Database::filler), 't'))",
			rows => "INSERT INTO plain (subscription_id, event_type) SELECT n, 't' FROM generate_series(1, $subscriptions) n",
		);
		for my $run (0 .. runs())    # the first one, of sessions and connections that are new, does not count
		{
			my %times = (event => [], rows => [], arrival => []);
			for my $pair (1 .. $pairs)
			{
				$database->clean('plain');
				$database->sql('CHECKPOINT') if $pair == 1;
				my $requests = $nginx->requests;
				for my $what ('rows', 'event')
				{
					my $target = $database->delivered + $subscriptions;
					my $begin = now();
					my $made = $database->sql($statement{$what});
					push @{ $times{$what} }, 1000 * (now() - $begin);
					next if $what eq 'rows';
					die "one event made $made deliveries\n" if $made != $subscriptions;
					$database->wait_delivered($target);
					push @{ $times{arrival} }, 1000 * (now() - $begin);
				}
				$database->verify($subscriptions);
				my $got = $nginx->requests - $requests;
				die "$got requests for $subscriptions deliveries\n" if $got != $subscriptions;
			}
			next if $run == 0;
			record($run, $_, median(@{ $times{$_} })) for 'event', 'rows', 'arrival';
			record($run, 'ratio', median(@{ $times{event} }) / median(@{ $times{rows} }));
		}
		$server->stop;
	},
};
