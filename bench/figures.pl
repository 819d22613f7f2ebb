#!/usr/bin/perl
# The first figures: how many waiting deliveries a second go to one nginx on loopback, beside a plain libcurl
# loop with the same requests in the same run; and how long it is from commit to arrival on an idle server.
# Run it by "make bench"; RUNS (5), DELIVERIES (20000) and EVENTS (500) change the size.
# The server has PostgreSQL's default durability.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../test/lib";
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Time::HiRes qw(time);

# PostgreSQL's test modules turn both into a log file.
BEGIN { open(our $report, '>&', \*STDOUT) or die $!; open(our $trouble, '>&', \*STDERR) or die $!; }
our ($report, $trouble);
$SIG{__DIE__} = sub { print $trouble @_ unless $^S; };

use Whisperer::Node;
use Whisperer::Receiver;

my $runs = $ENV{RUNS} || 5;
my $deliveries = $ENV{DELIVERIES} || 20_000;
my $events = $ENV{EVENTS} || 500;
my $at_once = 32;    # whisperer.max_in_flight_per_subscription
my $bench = $FindBin::RealBin;

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ]; }
sub percentile { my ($p, @values) = @_; my @s = sort { $a <=> $b } @values; return $s[ int($p / 100 * $#s + 0.5) ]; }
sub spread { my $format = shift; return join ' … ', map { sprintf $format, $_ } (sort { $a <=> $b } @_)[ 0, -1 ]; }

# nginx on a free port, gone with this process.
my $directory = tempdir(CLEANUP => 1);
my $port = do { my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!; $s->sockport };
my $temporary = join ' ', map { "${_}_temp_path $directory/$_;" } qw(client_body proxy fastcgi uwsgi scgi);
open(my $conf, '>', "$directory/nginx.conf") or die $!;
print $conf <<"CONF";
daemon off; master_process off; pid $directory/nginx.pid; error_log $directory/error.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; client_body_buffer_size 64k; $temporary
  server { listen 127.0.0.1:$port backlog=4096; location / { return 200 "ok"; } } }
CONF
close $conf;
my $nginx = fork() // die $!;
if ($nginx == 0) { exec 'nginx', '-p', $directory, '-e', "$directory/error.log", '-c', "$directory/nginx.conf" or die "nginx: $!"; }
END { local $?; kill 'TERM', $nginx if $nginx; }
until (IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port")) { waitpid($nginx, 1) == 0 or die "nginx did not start\n"; }

system('g++', '-O2', '-std=c++17', '-o', "$directory/plain_loop", "$bench/plain_loop.cpp", '-lcurl') == 0
  or die "plain_loop was not built\n";

my $node = Whisperer::Node->started('bench', settings => <<'CONF');
fsync = on
full_page_writes = on
shared_buffers = 512MB
max_wal_size = 4GB
track_commit_timestamp = on
CONF
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('t'), whisperer.register_event_type('idle');
	SELECT whisperer.subscribe('t', 'http://127.0.0.1:$port/', secret_key => 'a secret of the usual length');
	CREATE TABLE item (id bigserial, a text);
	CREATE TRIGGER raise AFTER INSERT ON item REFERENCING NEW TABLE AS rows
		FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t')});

# Throughput: the rows are there before sending begins.
my (@ours, @plain, @ratio);
for my $run (1 .. $runs)
{
	chomp(my $plain = `$directory/plain_loop http://127.0.0.1:$port/ $deliveries $at_once`);
	die "plain_loop failed\n" if $?;
	$node->safe_psql('postgres', 'ALTER SYSTEM SET whisperer.enabled = off');
	$node->reload;
	$node->poll_until('postgres', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery'}, 'disabled');
	$node->safe_psql('postgres', "INSERT INTO item (a) SELECT repeat('x', 220) FROM generate_series(1, $deliveries)");
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET whisperer.enabled');
	$node->reload;
	$node->wait_settled('postgres', 120);
	# From the first request to the last record.
	my $seconds = $node->safe_psql('postgres', qq{
		SELECT extract(epoch FROM max(modified_date) - min(request_datetimes[1])) FROM
		(SELECT * FROM whisperer.history ORDER BY modified_date DESC LIMIT $deliveries) h});
	push @plain, $plain;
	push @ours, $deliveries / $seconds;
	push @ratio, $ours[-1] / $plain;
}

# Latency: one event at a time, the next when it has arrived.
my $receiver = Whisperer::Receiver->new;
$node->safe_psql('postgres', "SELECT whisperer.subscribe('idle', '" . $receiver->url('/idle') . "')");
my $session = $node->background_psql('postgres');
my %commit;
for my $n (1 .. $events)
{
	my $answer = $session->query(
		q{SELECT uuids[1], pg_current_xact_id()::xid FROM whisperer.deliver_event('{"a": 1}', 'idle') AS uuids});
	my ($uuid, $xid) = split /\|/, $answer;
	$commit{$uuid} = $xid;
	$receiver->await('/idle', $n, brief => 1);
}
$session->quit;
my @latency;
for my $request ($receiver->requests(path => '/idle'))
{
	my $committed = $node->safe_psql('postgres',
		"SELECT extract(epoch FROM pg_xact_commit_timestamp('$commit{$request->{id}}'))");
	push @latency, 1000 * ($request->{arrived} - $committed);
}

printf $report "%-46s %12s   %s\n", 'figure', 'median', "spread of $runs runs";
printf $report "%-46s %12.0f   %s\n", "deliveries a second ($deliveries waiting, signed)", median(@ours), spread('%.0f', @ours);
printf $report "%-46s %12.0f   %s\n", 'plain libcurl, requests a second', median(@plain), spread('%.0f', @plain);
printf $report "%-46s %12.2f   %s\n", 'ratio', median(@ratio), spread('%.2f', @ratio);
printf $report "%-46s %9.2f ms   p99 %.2f ms, of %d events\n", 'commit to arrival, idle', percentile(50, @latency),
  percentile(99, @latency), scalar @latency;
$node->stop;
