# Names: unknown, v6 only, several addresses of which one works, a name server that says nothing or fails, beside healthy
# receivers, which nothing delays. The test has a network, and a name server, of its own.
use strict;
use warnings;

BEGIN { require Whisperer::Namespace; Whisperer::Namespace::enter('timeout:30 attempts:5'); }

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new(listen => [ { name => 'v4' }, { name => 'v6', host => '::1' } ]);
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my ($v4, $v6) = map { $receiver->port($_) } qw(v4 v6);

# name => records, port, config, state, error
my $failed = qr/^name lookup of "\S+" failed: /;
my %cases = (
	known => { records => { A => ['127.0.0.1'] }, state => 'delivered' },
	unknown => { error => $failed },
	six_only => { records => { AAAA => ['::1'] }, port => $v6, state => 'delivered' },
	no_address => { records => {}, error => $failed },
	server_fails => { records => 'fails', error => $failed },
	one_of_three_works => { records => { A => [ '127.0.0.2', '127.0.0.3', '127.0.0.1' ] }, state => 'delivered' },
	four_of_both_kinds => { records => { A => ['127.0.0.1'], AAAA => [ '::1', '0:0:0:0:0:ffff:7f00:2' ] }, state => 'delivered' },
	none_of_them_works => { records => { A => [ '127.0.0.2', '127.0.0.3' ] }, error => qr/^Failed to connect to none-of-them-works\.test(?: port |:)/ },
	only_the_allowed_is_used => { records => { A => [ '10.0.0.1', '127.0.0.1', '169.254.169.254' ] }, state => 'delivered' },
	twenty_addresses => { records => { A => [ '127.0.0.1', map { "127.0.1.$_" } 1 .. 19 ] }, state => 'delivered' },
	trailing_dot => { host => 'known.test.', state => 'delivered' },
	upper_case => { host => 'KNOWN.TEST', state => 'delivered' },
	never_answered => { records => 'silent', config => '{"request_timeout": 1.5}', error => qr/^name lookup of "never-answered\.test" did not end within 1\.5 s$/ },
	label_of_63 => { host => ('x' x 63) . '.test', records => { A => ['127.0.0.1'] }, state => 'delivered' },
	label_of_64 => { host => ('x' x 64) . '.test', error => $failed },
);
my (%records, $statements);
for my $name (sort keys %cases)
{
	my $case = $cases{$name};
	my $host = $case->{host} // ($name =~ tr/_/-/r) . '.test';
	$records{$host} = $case->{records} if defined $case->{records};
	$statements .= "SELECT whisperer.register_event_type('$name'); SELECT whisperer.subscribe('$name', 'http://$host:@{[$case->{port} // $v4]}/$name',
		config => '@{[$case->{config} // '{}']}', retry_countdown_config => '{\"choice\": \"fixed\", \"kwargs\": {\"seconds\": 1000}}');\n";
}
$records{"silent-$_.test"} = 'silent' for 1 .. 400;
$records{"healthy-$_.test"} = { A => ['127.0.0.1'] } for 1 .. 10;
$receiver->names(%records);
sql($statements);

sql("SELECT whisperer.deliver_event('{}', t) FROM unnest('{" . join(',', sort keys %cases) . "}'::text[]) t");
$node->poll_until('postgres', q{SELECT string_agg(event_type, ' ') FROM whisperer.webhook_events WHERE retry_count = 0}, '');
my %row = map { my @fields = split /\|/, $_, -1; ($fields[0] => \@fields) } split /\n/,
  sql(q{SELECT event_type, state, retry_count, coalesce(response_http_status::text, 'none'),
	coalesce(round(extract(epoch FROM next_attempt_at - request_datetimes[1]))::text, 'never'), coalesce(error, '') FROM whisperer.webhook_events});
for my $name (sort keys %cases)
{
	my $case = $cases{$name};
	my (undef, $state, $attempts, $status, $wait, $error) = @{ $row{$name} };
	my $delivered = ($case->{state} // '') eq 'delivered';
	is("$state $attempts $status", $delivered ? 'delivered 1 200' : 'pending 1 none', "$name: state, attempts, status") or diag($error);
	like($error, $delivered ? qr/^$/ : $case->{error}, "$name: error");
	like($wait, $delivered ? qr/^never$/ : qr/^10(?:0\d|1\d)$/, "$name: the next attempt");
}
is(scalar(grep { /^10\.|^169/ } map { $_->{header}{host} } $receiver->requests), 0, 'nothing is sent to addresses that are not allowed');

# ---- Beside names that hang the healthy ones go on: by address, by a name known already, and by names not known yet. Each
# of those that hang occupies a look-up for as long as its name server says nothing: here for 150 s, in which all this happens.
sql(qq{SELECT whisperer.register_event_type(t) FROM unnest('{silent,healthy,more-silent}'::text[]) t;
	SELECT whisperer.subscribe(CASE WHEN i <= 100 THEN 'silent' ELSE 'more-silent' END, format('http://silent-%s.test:$v4/silent', i),
		config => '{"request_timeout": 600}') FROM generate_series(1, 400) i;
	SELECT whisperer.subscribe('healthy', format('http://%s:$v4/healthy', host)) FROM unnest('{127.0.0.1,known.test}'::text[]) host;
	SELECT whisperer.subscribe('healthy', format('http://healthy-%s.test:$v4/healthy', i)) FROM generate_series(1, 10) i});
sub hang
{
	my ($type, $least) = @_;
	sql("SELECT whisperer.deliver_event('{}', '$type')");
	$node->await(sub {
		my %names = map { /^(silent-\S+)/ ? ($1 => 1) : () } keys %{ $receiver->names_asked };
		return keys %names >= $least;
	}, "$least names of $type, to be looked up");
	return;
}
sub healthy
{
	my ($count, $what) = @_;
	sql(q{SELECT whisperer.deliver_event('{}', 'healthy')});
	$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = 'healthy' AND delivered}, $count, 120);
	is(sql(q{SELECT coalesce(sum(retry_count), 0) FROM whisperer.webhook_events WHERE event_type ~ 'silent'}), 0, $what);
	return;
}
hang('silent', 100);
healthy(12, 'healthy receivers that were never called, of new names, are served while 100 names hang');
# As many as the worker lets: three quarters of its requests in flight.
hang('more-silent', 190);
healthy(24, 'those that have answered before are served while as many hang as can');
$node->stop;
done_testing();
