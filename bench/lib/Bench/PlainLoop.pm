# Deliveries a second beside a plain libcurl loop that sends the same to the same receiver.
package Bench::PlainLoop;

use strict;
use warnings;

use Bench qw(size runs record run_tool tool);
use Bench::Nginx;
use Bench::Server;

sub compare
{
	my %options = @_;
	my $deliveries = size('DELIVERIES', 100_000);
	my $nginx = Bench::Nginx->new(tls => $options{tls});
	my $certificate = $nginx->{certificate};
	my $server = Bench::Server->start_fresh(
		settings => $certificate ? "whisperer.ca_file = '$certificate'" : '');
	my $database = $server->database;
	$database->subscribe('t', $nginx->url);
	$database->make_table('item', 't');
	# The worker's own limits are the loop's, too.
	my $at_once = $server->setting('whisperer.max_in_flight_per_subscription');
	my @plain_loop = (tool('plain_loop'), $nginx->url, $deliveries, $at_once, $server->setting('whisperer.max_in_flight'));
	push @plain_loop, $certificate if $certificate;

	for my $run (1 .. runs())
	{
		my $plain = run_tool(@plain_loop);
		$nginx->requests;
		$server->sending_off;
		$database->clean('item');
		$database->load('item', $deliveries);
		my $ours = $deliveries / $database->drain($deliveries, nginx => $nginx)->{wall};
		my $size = $database->body_size;
		die "bodies have $size bytes, not about 300\n" if abs($size - 300) > 10;
		record($run, 'plain', $plain);
		record($run, 'deliveries', $ours);
		record($run, 'ratio', $ours / $plain);
	}
	$server->stop;
	return;
}

1;
