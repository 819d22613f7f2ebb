# Receivers that speak HTTP/2 and misbehave in it: what is recorded of the attempt, how often the request went out, and that others
# are served meanwhile. What was answered or perhaps processed is not sent again within an attempt; what the receiver itself says
# that it has not looked at (REFUSED_STREAM, GOAWAY) may be.
use strict;
use warnings;

use FindBin;
use IPC::Run ();
use JSON::XS ();
use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
chmod 0755, $directory;
my $json = JSON::XS->new->canonical;

my $cut = qr/^the response ended before it was whole: /;
my $broken = qr/^the response (?:ended before it was whole|is not HTTP): /;
my $silent = qr/^no response within 20 s \(/;
my $incomplete = qr/^the response was not complete within 20 s \(/;
my $large = qr/^the response(?:'s headers are larger than 64 kB| ended before it was whole: | is not HTTP: )/;
my $flooded = qr/$large|$silent/;

# name => what is recorded: error, status, content. Without error: delivered. sent: how often the request may arrive in an attempt
# (1). either: or delivered.
my %cases = (
	goaway_unprocessed => { error => $cut, either => 1, sent => 2 },
	goaway_processed => { error => $cut }, goaway_error => { error => $cut },
	goaway_within => { error => $cut, status => 200, content => 'half' }, goaway_graceful => { status => 200, content => 'well' },
	refused => { error => $cut, either => 1, sent => 2 }, refused_always => { error => $cut, sent => 10 },
	rst_internal => { error => $cut }, rst_cancel => { error => $cut }, rst_clean => { error => $cut },
	rst_within => { error => $cut, status => 200, content => 'half' }, rst_clean_within => { error => $cut, status => 200, content => 'half', either => 1 },
	rst_within_headers => { error => $cut, status => 200 },
	closes => { error => $cut }, resets => { error => $cut },
	closes_within => { error => $cut, status => 200, content => 'half' }, resets_within => { error => $cut, status => 200, content => 'half' },
	nonsense_within => { error => $broken, status => 200, content => 'half', either => 1 }, closes_in_a_frame => { error => $cut, status => 200 },
	length_too_long => { error => $broken, status => 200 }, length_too_short => { error => $broken, status => 200 },
	data_on_stream_0 => { error => $broken }, data_first => { error => $broken }, http1 => { error => $broken }, nonsense => { error => $broken },
	# (libcurl 7.88 takes the end of a connection on which frames are wrong for the end of the body.)
	too_large_a_frame => { error => $broken, status => 200, either => 1 }, bad_compression => { error => $broken }, no_status => { error => $broken }, odd_status => { error => $broken },
	header_with_newline => { error => $broken, status => 200, either => 1 }, upper_case => { error => $broken, status => 200, either => 1 },
	push => { error => $broken }, settings_of_5_bytes => { error => $broken }, window_overflow => { error => $broken }, headers_split => { error => $broken, status => 200 },
	many_headers => { error => $large, status => 200 }, endless_continuation => { error => $flooded, status => 200 }, endless_empty_continuation => { error => $flooded, status => 200 },
	endless_informational => { error => $flooded }, endless_trailers => { error => qr/$large|$incomplete/, status => 200, either => 1 },
	endless_body => { status => 200, content => qr/^x{4096}\n\[whisperer: the response was longer/ }, informational => { status => 200, content => 'well' }, trailers => { status => 200, content => 'well' },
	silent => { error => $silent }, silent_within => { error => $incomplete, status => 200, content => 'half' }, pings => { error => $silent }, flood_of_pings => { error => $flooded },
	settings => { error => $silent }, empty_data => { error => $incomplete, status => 200, content => '' }, window_closed => { error => $silent, sent => 0 }, no_settings => { error => $silent },
);
my %ports = map { $_ => { times => $_ eq 'refused_always' ? 1_000_000 : 1 } } keys %cases;
@ports{qw(well goaway_many one_stream)} = ({}, { after => 10, times => 5 }, { times => 50 });

my ($in, $out, $said) = ('', '', '');
my $timer = IPC::Run::timer(2 * $PostgreSQL::Test::Utils::timeout_default);
my $server = IPC::Run::start([ 'node', "$FindBin::RealBin/../receiver/http2.mjs", $certificate, $key, $json->encode(\%ports) ], '<', \$in, '>', \$out, '2>', \$said, $timer);
$server->pump until $out =~ s/^(\{"ports".*)\n//m || !$server->pumpable;
my $port = $json->decode($1 // die $said)->{ports};
sub requests { $server->pump_nb for 1 .. 100; return map { $json->decode($_) } $out =~ /^(\{.*\})$/mg; }

my $node = Whisperer::Node->started('main', settings => "whisperer.ca_file = '$certificate'\nwhisperer.max_response_size = '4kB'");
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $statements = '';
for my $name (sort keys %ports)
{
	$statements .= qq{SELECT whisperer.register_event_type('$name'); SELECT whisperer.subscribe('$name', 'https://localhost:$port->{$name}/', 'secret',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": @{[$cases{$name} ? 1000 : 0]}}}', config => '{"request_timeout": @{[$cases{$name} && ($cases{$name}{error} // '') =~ /within/ ? 20 : 60]}}');\n};
}
sql($statements);
# A receiver gets several at once when it has shown that it answers.
sql(q{SELECT whisperer.deliver_event('{}', 'goaway_many') FROM generate_series(1, 10)});
$node->wait_settled;
my ($worker) = $node->delivery_pids('postgres');
# A window that is closed stops bodies that are larger than the one at the beginning.
sql(q{SELECT whisperer.deliver_event(CASE event_type WHEN 'window_closed' THEN jsonb_build_object('x', repeat('x', 100000)) ELSE '{}' END, event_type) FROM whisperer.event_types, generate_series(1, CASE event_type WHEN 'well' THEN 20 WHEN 'one_stream' THEN 50 WHEN 'goaway_many' THEN 5 ELSE 1 END)});
$node->poll_until('postgres', q{SELECT string_agg(event_type, ' ') FROM whisperer.webhook_events WHERE retry_count = 0}, '');
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type IN ('well', 'one_stream', 'goaway_many') AND NOT delivered}, '0');

my %row = map { $_->{event_type} => $_ } @{ $json->decode(sql(q{SELECT json_agg(json_build_object('event_type', event_type, 'uuid', replace(uuid::text, '-', ''), 'state', state,
	'attempts', retry_count, 'status', response_http_status, 'error', error, 'content', response_content)) FROM whisperer.webhook_events WHERE event_type NOT IN ('well', 'one_stream', 'goaway_many')})) };
my %arrived;
$arrived{ $_->{uuid} }++ for requests();
for my $name (sort keys %cases)
{
	my ($case, $row) = ($cases{$name}, $row{$name});
	my ($sent, $may) = ($arrived{ $row->{uuid} } // 0, $case->{sent} // 1);
	my @wrong;
	push @wrong, 'attempts' unless $row->{attempts} == 1;
	push @wrong, "sent $sent times" unless $sent <= $may && ($sent > 0 || $may == 0);
	push @wrong, 'control character' if ($row->{error} // '') =~ /[\x00-\x1f\x7f]/;
	if ($row->{state} eq 'delivered')
	{
		push @wrong, 'delivered' unless !$case->{error} || $case->{either};
		push @wrong, 'status' unless $row->{status} == 200;
	}
	else
	{
		push @wrong, 'state' unless $row->{state} eq 'pending' && $case->{error};
		push @wrong, 'error' unless $case->{error} && $row->{error} =~ $case->{error};
		push @wrong, 'status' if defined $row->{status} && $row->{status} != ($case->{status} // 0);
	}
	push @wrong, 'content' if defined $case->{content} && (!defined $row->{content} ? 1 : ref $case->{content} ? $row->{content} !~ $case->{content} : $row->{content} ne $case->{content});
	is("@wrong", '', "$name: " . ($row->{error} // 'delivered') . ", sent $sent times") or diag(explain($row));
}

# Others, and what was on a connection that ended.
note 'seconds that those who behave, and then those that hang, took: ' . sql(q{SELECT string_agg(extract(epoch FROM until - begun)::text, ', ' ORDER BY until) FROM
	(SELECT min(created_date) AS begun, max(modified_date) FILTER (WHERE event_type = 'well') AS well, min(modified_date) FILTER (WHERE error ~ ' within 20 s ') AS hang
	 FROM whisperer.webhook_events WHERE event_type <> 'goaway_many') t, unnest(ARRAY[well, hang]) until});
is(sql(q{SELECT count(*), max(retry_count) FROM whisperer.webhook_events WHERE event_type = 'well' AND delivered}), '20|1', 'those who behave are served at once');
is( sql(q{SELECT (SELECT max(modified_date) FROM whisperer.webhook_events WHERE event_type = 'well') < (SELECT min(modified_date) FROM whisperer.webhook_events WHERE error ~ ' within 20 s ')}),
	't', '... and did not wait for those that hang');
is(sql(q{SELECT count(*), max(retry_count) FROM whisperer.webhook_events WHERE event_type = 'one_stream' AND delivered}), '50|1', 'one stream at a time: all of them, each by its first attempt');
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'goaway_many' AND delivered}), '15', 'GOAWAY while five are under way: all are delivered');
for my $name (qw(well one_stream goaway_many))
{
	my %processed;
	$processed{ $_->{uuid} }++ for grep { $_->{port} eq $name && !$_->{refused} } requests();
	is(join(' ', sort values %processed), join(' ', (1) x { well => 20, one_stream => 50, goaway_many => 15 }->{$name}), "$name: each is processed once");
}

# Further attempts, over new connections or old ones, end well; nothing is left of the first. (A connection over which something comes
# without end is given up by the next request that is sent over it.)
my $others = q{event_type NOT IN ('refused_always', 'window_closed', 'no_settings')};
sql(q{SELECT whisperer.update_subscription(id, '{"config": {"request_timeout": 60}}') FROM whisperer.subscriptions});
for my $attempt (2 .. 4)
{
	sql("SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE $others");
	$node->poll_until('postgres', "SELECT string_agg(event_type, ' ') FROM whisperer.pending WHERE retry_count < $attempt AND $others", '');
	is(sql("SELECT string_agg(concat_ws(': ', event_type, error), ', ') FROM whisperer.pending WHERE $others AND event_type !~ 'flood|endless'"), '', 'tried again, they are delivered') if $attempt == 2;
}
is(sql("SELECT string_agg(concat_ws(': ', event_type, error), ', ') FROM whisperer.pending WHERE $others"), '', '... all of them');
is(join(' ', $node->delivery_pids('postgres')), $worker, 'the worker survives');
unlike($node->log_since(0), qr/\b(?:ERROR|FATAL|PANIC):|was terminated/, 'no error in the log');

$in = undef;
$server->kill_kill;
$node->stop;
done_testing();
