# For profiling, and no part of the others: the HTTP engine of src/core alone beside a plain libcurl loop, requests per second of
# their own processor time. Both are in one program, in turn. REQUESTS (50000)
use strict;
use warnings;

use Bench qw(size runs record run_tool tool);

return {
	figures => [
		{ name => 'ratio', label => 'HTTP engine ÷ plain libcurl, per second of processor time' },
		{ name => 'engine', label => 'the engine, requests', unit => '/s', digits => 0 },
		{ name => 'plain', label => 'plain libcurl, requests', unit => '/s', digits => 0 },
	],
	run => sub {
		my $nginx = Bench::Nginx->new;
		for my $run (1 .. runs())
		{
			my ($plain, $engine) = split / /, run_tool(tool('engine_bench'), $nginx->url, size('REQUESTS', 50_000));
			record($run, 'plain', $plain);
			record($run, 'engine', $engine);
			record($run, 'ratio', $engine / $plain);
		}
	},
};
