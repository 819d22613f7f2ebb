# Whether sending is slower while whisperer.retention removes old deliveries, and what becomes of the disk they held: what was not
# given back must be there for as many new ones. Rates are from the first request to the last record. OLD (5000000), DELIVERIES (100000)
use strict;
use warnings;

use Bench qw(size runs record wait_for);
use Bench::Rows qw(multiply uuid_at);

# Of everything in the schema but what waits, indexes and TOAST included.
my $disk = q{SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace
	AND relkind IN ('r', 'm') AND relname NOT IN ('delivery', 'job')};
sub old_rows { my $database = shift; return $database->sql(q{SELECT count(*) FROM whisperer.history WHERE modified_date < now() - interval '100 days'}); }

return {
	large => 1,
	figures => [
		{ name => 'ratio', label => 'rate while old rows are removed ÷ without', target => 0.8, aim => 0.95 },
		{ name => 'with', label => 'rate while they are removed', unit => '/s', digits => 0 },
		{ name => 'without', label => 'rate without', unit => '/s', digits => 0 },
		{ name => 'removed', label => 'rows removed meanwhile', unit => '/s', digits => 0 },
		{ name => 'disk', label => 'of the disk they held, given back or reused', unit => '%', digits => 0, target => 90, aim => 98 },
		{ name => 'given back', label => 'of the disk they held, given back', unit => '%', digits => 0 },
	],
	run => sub {
		my ($old, $deliveries) = (size('OLD', 5_000_000), size('DELIVERIES', 100_000));
		my $nginx = Bench::Nginx->new;
		my $server = Bench::Server->start_fresh(settings => "whisperer.retention = '0'");
		my $database = $server->database;
		$database->subscribe('t', $nginx->url);
		$database->make_table('item', 't');
		$database->insert('item', 1);
		$server->wait_settled('postgres', 60);
		my $empty = $database->sql($disk);
		my $fill = sub {
			my $begin = shift;
			my $time = "$begin + n * (interval '60 days' / $old)";
			multiply($database, 'history', $old, uuid => uuid_at("($time)"), request_datetimes => "ARRAY[$time]",
				created_date => $time, modified_date => $time);
			return $database->sql($disk);
		};
		my $full = $fill->("date_trunc('hour', now()) - interval '200 days'");

		my $removing = sub {
			my $wanted = shift;
			return $database->sql(q{SELECT count(*) FROM whisperer.workers WHERE kind = 'maintenance' AND pid IS NOT NULL}) == $wanted;
		};
		my $rate = sub {
			my $remove = shift;
			$server->sending_off;
			$database->sql('TRUNCATE item');
			$database->mark;
			$database->load('item', $deliveries);
			my $before = old_rows($database);
			# While sending is off nothing is removed either: both begin at once.
			my $drained = $database->drain($deliveries, nginx => $nginx,
				settings => { 'whisperer.retention' => $remove ? '100 days' : '0' });
			my $after = old_rows($database);
			$server->set('whisperer.retention' => '0');
			wait_for('the removing to end', 120, sub { $removing->(0) });
			die "nothing left to remove: OLD is to be larger\n" if $remove && $after == 0;
			die "$before old rows, then $after\n" if $remove ? $after >= $before : $after != $before;
			return ($deliveries / $drained->{sending}, ($before - $after) / $drained->{wall});
		};
		for my $run (1 .. runs())
		{
			my ($without) = $rate->(0);
			my ($with, $removed) = $rate->(1);
			record($run, 'without', $without);
			record($run, 'with', $with);
			record($run, 'removed', $removed);
			record($run, 'ratio', $with / $without);
		}

		# The rest, and what remains.
		my $kept = $database->sql('SELECT count(*) FROM whisperer.history') - old_rows($database);
		$server->sending_on;
		$server->set('whisperer.retention' => '100 days');
		wait_for('the old rows to be removed', 600 + $old / 1000, sub { $removing->(0) && old_rows($database) == 0 }, 0.5);
		my $left = $database->sql('SELECT count(*) FROM whisperer.history');
		die "$left rows left of $kept that were not old\n" if $left != $kept;
		$server->sending_off;
		# What autovacuum does sooner or later; pages of indexes are free again with the first vacuum after the transactions that
		# could still have been on their way to them.
		for my $table ('history', 'delivery', 'event')
		{
			$database->sql($_) for "VACUUM whisperer.$table", 'SELECT pg_current_xact_id()', "VACUUM whisperer.$table";
		}
		my $held = $full - $empty;
		my $given_back = $full - $database->sql($disk);
		# As many again, newer than all as new ones are, and those kept: what that takes beyond their share is what was lost.
		my $needed = $empty + $held * ($old + $kept) / $old;
		my $lost = $fill->(q{date_trunc('hour', now()) + interval '1 day'}) - $needed;
		record(1, 'disk', 100 - ($lost > 0 ? 100 * $lost / $held : 0));
		record(1, 'given back', $given_back > 0 ? 100 * $given_back / $held : 0);
		$server->stop;
	},
};
