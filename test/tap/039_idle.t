# A server on which nothing happens costs about nothing: neither the launcher nor a delivery worker wakes up, in any thread, also when
# connections to receivers are kept open, names have been looked up, and a retry waits an hour away.
use strict;
use warnings;

use File::Spec;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Node;
use Whisperer::Receiver;

my $seconds = 6;
my $receiver = Whisperer::Receiver->new;
my ($certificate, $key) = Whisperer::Receiver::make_certificate(File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir()), 'DNS:localhost');
$receiver->listen(name => 'secure', tls => { cert => $certificate, key => $key });
my $node = Whisperer::Node->new('main');
$node->init(settings => "whisperer.ca_file = '$certificate'");
$node->defaults('safety_scan_interval');
$node->start;
$node->create_whisperer('postgres');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->create_whisperer('other');
my ($other) = $node->delivery_pids('other');

my ($secure, $later) = ($receiver->url('/secure', port => 'secure', scheme => 'https', host => 'localhost'), $receiver->url('/later'));
$receiver->answer('/later', { status => 500 });
$receiver->answer('/slow', { status => 200, delay => { headers => 300 } });
$node->safe_psql(
	'postgres', qq{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '$secure');
	SELECT whisperer.subscribe('t', '@{[$receiver->url('/slow')]}');
	SELECT whisperer.subscribe('t', '$later', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3600}}')});
$node->safe_psql('postgres', q{SELECT count(whisperer.deliver_event('{}'::jsonb, 't')) FROM generate_series(1, 20)});
$node->poll_until('postgres', 'SELECT delivered, attempts FROM whisperer.statistics', '40|60');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.delivery WHERE due > now() + interval '50 min'}, '20');
my $open = $receiver->statistics->{open};
cmp_ok($open->{$_}, '>', 1, "connections are open: $_") for 'main', 'secure';

# How often each thread of it was put to the processor. Those that look names up end when there have been none for a while.
sub switches
{
	my ($pid) = @_;
	my %switches;
	for my $thread (glob "/proc/$pid/task/*")
	{
		my $status = eval { slurp_file("$thread/status") } // next;
		$switches{$thread} += $_ for $status =~ /voluntary_ctxt_switches:\s+(\d+)/g;
	}
	return \%switches;
}
sub switched
{
	my ($before, $after) = @_;
	my $sum = 0;
	$sum += $after->{$_} - ($before->{$_} // 0) for keys %$after;
	return $sum;
}

my %processes = ('launcher' => 'launcher', 'a delivery worker' => 'delivery');
$_ = $node->safe_psql('postgres', "SELECT pid FROM whisperer.workers WHERE kind = '$_' AND database IS DISTINCT FROM 'other'") for values %processes;
$processes{'a worker of an empty database'} = $other;
# Statistics are saved after ten seconds, and what was learnt of receivers after one: from the first stretch of time on in which all
# of that is over. It is time itself that is tested here.
my %least;
my $end = time() + 40;
do
{
	my %before = map { $_ => switches($processes{$_}) } keys %processes;
	usleep($seconds * 1e6);
	for my $name (keys %processes)
	{
		my $count = switched($before{$name}, switches($processes{$name}));
		$least{$name} = $count if !defined $least{$name} || $count < $least{$name};
	}
	note join ', ', map { "$_: $least{$_}" } sort keys %least;
} until !(grep { $_ > 3 } values %least) || time() > $end;
cmp_ok($least{$_}, '<=', 3, "$_ sleeps") for sort keys %processes;
is($receiver->statistics->{open}{$_}, $open->{$_}, "the connections are open still: $_") for 'main', 'secure';

$node->stop;
done_testing();
