# Waiting deliveries of one subscription, signed and recorded, beside a plain libcurl loop with the same requests, connections
# and concurrency. From switching sending on until the last is recorded. DELIVERIES (100000)
use strict;
use warnings;

return {
	figures => [
		{ name => 'ratio', label => 'deliveries/s ÷ plain libcurl requests/s', target => 0.55, aim => 0.75 },
		{ name => 'deliveries', label => 'deliveries recorded', unit => '/s', digits => 0 },
		{ name => 'plain', label => 'plain libcurl, requests', unit => '/s', digits => 0 },
	],
	run => sub { Bench::PlainLoop::compare(); },
};
