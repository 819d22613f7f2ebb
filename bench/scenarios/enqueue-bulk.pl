# One insert of many rows with whisperer's statement trigger, beside the same insert with one written by hand that copies the
# rows to a plain outbox table; sending off. ROWS (100000)
use strict;
use warnings;

use Bench qw(size runs record now);

return {
	figures => [
		{ name => 'ratio', label => 'time of a bulk insert ÷ with a hand-written outbox', target => 2, aim => 1, less => 1 },
		{ name => 'ours', label => 'with the statement trigger', unit => 's' },
		{ name => 'hand', label => 'with the hand-written trigger', unit => 's' },
		{ name => 'bare', label => 'without a trigger', unit => 's' },
	],
	run => sub {
		my $rows = size('ROWS', 100_000);
		my $server = Bench::Server->start_fresh;
		my $database = $server->database;
		$database->subscribe('t', 'http://127.0.0.1:' . Bench::Nginx::free_port() . '/');
		$database->make_table('ours', 't');
		$database->make_table($_) for 'hand', 'bare';
		$database->sql(q{
			CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb);
			CREATE FUNCTION copy_rows() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				INSERT INTO outbox (payload) SELECT to_jsonb(w) FROM written w;
				RETURN NULL;
			END $$;
			CREATE TRIGGER copy AFTER INSERT ON hand REFERENCING NEW TABLE AS written
				FOR EACH STATEMENT EXECUTE FUNCTION copy_rows()});
		$server->sending_off;
		for my $run (0 .. runs())    # the first one, of a session that has prepared nothing, does not count
		{
			$database->clean('ours', 'hand', 'bare', 'outbox');
			my %seconds;
			for my $table ('ours', 'hand', 'bare')
			{
				$database->sql('CHECKPOINT');
				my $begin = now();
				$database->insert($table, $rows);
				$seconds{$table} = now() - $begin;
			}
			my $made = $database->sql('SELECT (SELECT count(*) FROM whisperer.pending), (SELECT count(*) FROM outbox)');
			die "of $rows rows: $made\n" if $made ne "$rows|$rows";
			next if $run == 0;
			record($run, $_, $seconds{$_}) for 'ours', 'hand', 'bare';
			record($run, 'ratio', $seconds{ours} / $seconds{hand});
		}
		$server->stop;
	},
};
