# The same as "throughput" over HTTP/2 and TLS: connections kept alive, certificate verified. DELIVERIES (100000)
use strict;
use warnings;

return {
	figures => [
		{ name => 'ratio', label => 'HTTPS deliveries/s ÷ plain libcurl requests/s', target => 0.55, aim => 0.75 },
		{ name => 'deliveries', label => 'deliveries recorded', unit => '/s', digits => 0 },
		{ name => 'plain', label => 'plain libcurl, requests', unit => '/s', digits => 0 },
	],
	run => sub { Bench::PlainLoop::compare(tls => 1); },
};
