# Where requests may go (contract: "Where requests may go"): every special block, in every spelling that reaches it, by name,
# by a name that changes its answer, by redirect, by Host, through the token URL, and through a proxy. The test has a network
# of its own in which every address is its receiver's, so that whatever got through would arrive.
use strict;
use warnings;
use utf8;

BEGIN { require Whisperer::Namespace; Whisperer::Namespace::enter('timeout:1 attempts:10'); }

use Encode qw(encode_utf8);
use Socket qw(AF_INET6 inet_aton inet_ntop inet_pton);
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new(listen => [ { name => 'world', host => '::' }, { name => 'proxy' } ]);
my $port = $receiver->port('world');
my $node = Whisperer::Node->started('main', settings => "whisperer.allowed_networks = ''\nwhisperer.max_in_flight_per_subscription = 4");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub quote { return "'" . ($_[0] =~ s/'/''/gr) . "'"; }
sub set { my ($name, $value) = @_; sql("ALTER SYSTEM SET whisperer.$name = '$value'"); sql('SELECT pg_reload_conf()'); return; }
sub arrived { return $receiver->statistics->{connections}; }

# ---- What is special: the first and the last address of each block, and what the error calls it.
my @v4 = (
	[ '0.0.0.0', '0.255.255.255', 'unspecified' ], [ '10.0.0.0', '10.255.255.255', 'private' ], [ '100.64.0.0', '100.127.255.255', 'shared' ],
	[ '127.0.0.0', '127.255.255.255', 'loopback' ], [ '127.0.0.1', '127.0.0.1', 'loopback' ], [ '169.254.0.0', '169.254.255.255', 'link-local' ],
	[ '169.254.169.254', '169.254.169.254', 'link-local' ], [ '172.16.0.0', '172.31.255.255', 'private' ], [ '192.0.0.0', '192.0.0.255', 'reserved' ],
	[ '192.0.2.0', '192.0.2.255', 'documentation' ], [ '192.88.99.0', '192.88.99.255', 'reserved' ], [ '192.168.0.0', '192.168.255.255', 'private' ],
	[ '198.18.0.0', '198.19.255.255', 'benchmark' ], [ '198.51.100.0', '198.51.100.255', 'documentation' ], [ '203.0.113.0', '203.0.113.255', 'documentation' ],
	[ '224.0.0.0', '239.255.255.255', 'multicast' ], [ '240.0.0.0', '255.255.255.254', 'reserved' ], [ '255.255.255.255', '255.255.255.255', 'broadcast' ]);
my @v6 = (
	[ '::', '::', 'unspecified' ], [ '::1', '::1', 'loopback' ], [ '::8.8.8.8', '::8.8.8.8', 'v4-compatible' ],
	[ '::ffff:0:8.8.8.8', '::ffff:0:8.8.8.8', 'reserved' ], [ '64:ff9b:1::', '64:ff9b:1:ffff:ffff:ffff:ffff:ffff', 'local NAT64' ],
	[ '100::', '100::ffff:ffff:ffff:ffff', 'discard-only' ], [ '2001::', '2001:0:ffff:ffff:ffff:ffff:ffff:ffff', 'Teredo' ],
	[ '2001:2::', '2001:2:0:ffff:ffff:ffff:ffff:ffff', 'benchmark' ], [ '2001:10::', '2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff', 'reserved' ],
	[ '2001:db8::', '2001:db8:ffff:ffff:ffff:ffff:ffff:ffff', 'documentation' ], [ '3fff::', '3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff', 'documentation' ],
	[ '4000::', '5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'reserved' ], [ 'fc00::', 'fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'private' ],
	[ 'fe80::', 'febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'link-local' ], [ 'fec0::', 'feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'private' ],
	[ 'ff00::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'multicast' ]);

# ---- How it may be written. "-" before its name: that is no URL, and refused when subscribing; "?": that may as well be a
# name, which there is not, or one that this locale cannot convert.
my %names;    # for the name server
sub v4_spellings
{
	my ($address) = @_;
	my @bytes = split /\./, $address;
	my $number = unpack 'N', inet_aton($address);
	my $hex = sprintf '%x:%x', $number >> 16, $number & 0xffff;
	my $name = join('-', @bytes) . '.test';
	$names{$name} = { A => [$address] };
	$names{"mapped-$name"} = { AAAA => ["0:0:0:0:0:ffff:$hex"] };
	return (
		dotted => $address, decimal => $number, hex => sprintf('0x%x', $number), HEX => sprintf('0X%08X', $number), octal => sprintf('0%o', $number),
		dotted_hex => join('.', map { sprintf '0x%x', $_ } @bytes), dotted_octal => join('.', map { sprintf '0%03o', $_ } @bytes),
		mixed => sprintf('0x%x.%d.0%o.%d', @bytes), two_parts => "$bytes[0]." . ($number & 0xffffff), three_parts => "$bytes[0].$bytes[1]." . ($number & 0xffff),
		'?trailing_dot' => "$address.", '?trailing_dot_decimal' => "$number.", escaped => $address =~ s/\.(\d)/.%3$1/r, escaped_first => $address =~ s/^(\d)/%3$1/r,
		'?wide' => encode_utf8($address =~ tr/0-9/０-９/r), '?ideographic' => encode_utf8($address =~ tr/./。/r), '?five_parts' => "$address.0", '?too_large' => 4294967296 + $number,
		mapped => "[::ffff:$address]", mapped_hex => "[::ffff:$hex]", mapped_long => "[0000:0000:0000:0000:0000:FFFF:$hex]", compatible => "[::$address]",
		nat64 => "[64:ff9b::$address]", nat64_hex => "[64:FF9B:0::$hex]", sixto4 => "[2002:$hex\::]", sixto4_host => "[2002:$hex\:1:2:3:4:5]",
		'-bracketed' => "[$address]", name => $name, NAME => uc $name, name_trailing_dot => "$name.", name_mapped => "mapped-$name");
}
sub v6_spellings
{
	my ($address) = @_;
	my $long = join ':', unpack '(H4)8', inet_pton(AF_INET6, $address);
	my $name = $long =~ s/:/-/gr . '.test';
	$names{$name} = { AAAA => [$long] };
	return (short => "[$address]", long => "[$long]", upper => '[' . uc($long) . ']', zone => "[$address%25lo]", zone_plain => "[$address%lo]", zone_number => "[$address%251]",
		'-unbracketed' => $long, '-name_in_brackets' => "[$name]", name => $name, name_trailing_dot => "$name.");
}

my %expected;    # URL => [how it is written, kind]
for my $family ([ \@v4, \&v4_spellings ], [ \@v6, \&v6_spellings ])
{
	my ($blocks, $spellings) = @$family;
	for my $block (@$blocks)
	{
		my ($first, $last, $kind) = @$block;
		for my $address ($first, $first eq $last ? () : $last)
		{
			my %spelling = $spellings->($address);
			$expected{"http://$spelling{$_}:$port/in"} = [ $_, $kind, $address ] for keys %spelling;
		}
	}
}
$expected{"http://$_:$port/in"} = [ '?localhost', 'loopback', $_ ] for qw(localhost LOCALHOST localhost. www.localhost);
$receiver->names(%names, 'public.test' => { A => ['8.8.8.8'] }, 'six.test' => { AAAA => ['2606:4700::1111'] },
	'both.test' => { A => [ '10.0.0.1', '8.8.8.8', '127.0.0.1' ], AAAA => [ 'fd00::1', '::1' ] });

# Subscribes to all of them; answers how each ended.
sql(q{
	SELECT whisperer.register_event_type('special');
	CREATE TABLE refused (url text, code text);
	CREATE PROCEDURE subscribe_all(urls text[]) LANGUAGE plpgsql AS $$
	DECLARE url text;
	BEGIN
		FOREACH url IN ARRAY urls LOOP
			BEGIN
				PERFORM whisperer.subscribe('special', url, config => '{"max_attempts": 1, "request_timeout": 30}');
			EXCEPTION WHEN OTHERS THEN INSERT INTO refused VALUES (url, sqlstate);
			END;
		END LOOP;
	END $$});
sql('CALL subscribe_all(ARRAY[' . join(',', map { quote($_) } sort keys %expected) . '])');
my %refused = map { split /\|/ } split /\n/, sql('SELECT url, code FROM refused');

sub results
{
	$node->wait_settled;
	return map { my ($url, $state, $error) = split /\|/, $_, 3; ($url => [ $state, $error ]) }
	  split /\n/, sql(q{SELECT DISTINCT ON (target_url) target_url, state, coalesce(error, '') FROM whisperer.webhook_events WHERE event_type = 'special' ORDER BY target_url, created_date DESC});
}
# How each ended: '' when as it must.
sub wrong
{
	my ($url, $got) = @_;
	my ($spelling, $kind) = @{ $expected{$url} };
	return $refused{$url} eq '22023' ? '' : $refused{$url} if defined $refused{$url} && $spelling =~ /^[-?]/;
	return 'not refused' if $spelling =~ /^-/;
	return 'no delivery' unless $got;
	return '' if $got->[0] eq 'failed' && $got->[1] =~ /^address \S+ \(\Q$kind\E\) is not allowed; see whisperer\.allowed_networks$/;
	return '' if $spelling =~ /^\?/ && $got->[1] =~ /^name lookup of .* failed|^the host's internationalized name cannot be converted/;
	return "@$got";
}
sub all_refused
{
	my ($what) = @_;
	my %got = results();
	my %wrong = map { $_->[0] => [] } values %expected;
	for my $url (sort keys %expected)
	{
		my $wrong = wrong($url, $got{$url});
		push @{ $wrong{ $expected{$url}[0] } }, "$url: $wrong" if $wrong;
	}
	is(join("\n", @{ $wrong{$_} }), '', "$what: no special address is reached ($_)") for sort keys %wrong;
	return;
}
cmp_ok(scalar keys %expected, '>', 1000, 'URLs that lead to special addresses: ' . keys %expected);
sql(q{SELECT whisperer.deliver_event('{}', 'special')});
all_refused('from the worker');
sql(q{SELECT whisperer.deliver_event('{}', 'special', _async => false)});
all_refused('from a session');
set(proxy => $receiver->url('', port => 'proxy'));
$receiver->behave(path => '*', port => 'proxy', steps => [ { tunnel => \1 } ]);
sql(q{SELECT whisperer.deliver_event('{}', 'special')});
all_refused('through a proxy');
is(arrived(), 0, 'nobody was even called, nor the proxy');

# ---- What is public is reached.
my $number = 0;
sub attempt
{
	my ($url, %more) = @_;
	my $type = 'one-' . ++$number;
	my $config = $more{config} // '{"max_attempts": 1, "request_timeout": 30}';
	sql(qq{SELECT whisperer.register_event_type('$type'); SELECT whisperer.subscribe('$type', '$url', config => '$config')});
	sql("SELECT whisperer.deliver_event('{}', '$type', _async => @{[$more{sync} ? 'false' : 'true']})");
	$node->poll_until('postgres', "SELECT state <> 'pending' FROM whisperer.webhook_events WHERE event_type = '$type'");
	return sql("SELECT concat_ws('|', state, response_http_status, error) FROM whisperer.webhook_events WHERE event_type = '$type'");
}
my @public = ('8.8.8.8', '[2606:4700::1111]', '[64:ff9b::8.8.8.8]', '[2002:808:808::1]', 'public.test', 'six.test', 'both.test');
for my $way ('a proxy', 'nothing')
{
	is(attempt("http://$_:$port/public"), 'delivered|200', "$_ is reached, through $way") for @public;
	set(proxy => '') if $way eq 'a proxy';
}
is( join(' ', map { $_->{target} } $receiver->requests(port => 'proxy')),
	join(' ', map { "$_:$port" } '8.8.8.8', '[2606:4700::1111]', '[64:ff9b::808:808]', '[2002:808:808::1]', '8.8.8.8', '[2606:4700::1111]', '8.8.8.8'),
	'the proxy was asked for the addresses that had been judged, not for names');
is(scalar(grep { $_->{method} ne 'CONNECT' } $receiver->requests(port => 'proxy')), 0, '... with CONNECT');

# ---- A name that changes its answer between two look-ups: judged anew. Each session has a resolver of its own.
my %moves = (A => [ { A => ['8.8.8.8'] }, { A => ['127.0.0.1'] } ], AAAA => [ { AAAA => ['2606:4700::1111'] }, { AAAA => ['::1'] } ]);
for my $type (sort keys %moves)
{
	my $name = lc "moves-$type.test";
	$receiver->names($name => $moves{$type});
	is(attempt("http://$name:$port/moves", sync => 1), 'delivered|200', "$name: public at first");
	like(attempt("http://$name:$port/moves", sync => 1), qr/^failed\|address \S+ \(loopback\) is not allowed/, '... and then not: refused');
	# Between the look-up and the connection there is no other look-up.
	is($receiver->names_asked->{"$name $type"}, 2, '... with one look-up for each');
}

# The worker's answers are kept for a minute, and its connections too: whatever it takes, what changed is judged by the address.
sub reopened { $receiver->unlisten('world'); $receiver->listen(name => 'world', host => '::', port => $port); return; }
$receiver->names('turns.test' => [ { A => ['8.8.8.8'] }, { A => ['127.0.0.1'] } ], 'opens.test' => [ { A => ['127.0.0.1'] }, { A => ['8.8.8.8'] } ], 'inner.test' => { A => ['127.0.0.1'] });
my $since = time();
is(attempt("http://turns.test:$port/turns"), 'delivered|200', 'from the worker, a name that is public at first');
like(attempt("http://opens.test:$port/opens"), qr/^failed\|address 127\.0\.0\.1 \(loopback\) is not allowed/, '... and one that is not');
set(allowed_networks => '127.0.0.1');
is(attempt("http://$_:$port/inner"), 'delivered|200', "allowed: $_") for 'inner.test', 'turns.test';
set(allowed_networks => '');
like(attempt("http://inner.test:$port/closed-again"), qr/^failed\|address 127\.0\.0\.1 \(loopback\) is not allowed/, 'no longer: refused, with the answer known and a connection open');
is($receiver->count(path => '/closed-again'), 0, '... and nothing came');
my %last;
for my $name (qw(turns opens))
{
	my $of_old = $name eq 'turns' ? qr/^delivered\|200$/ : qr/^failed\|address 127\.0\.0\.1 \(loopback\)/;
	do
	{
		reopened();
		$last{$name} = attempt("http://$name.test:$port/$name");
	} while ($last{$name} =~ $of_old && time() < $since + $PostgreSQL::Test::Utils::timeout_default);
	cmp_ok($receiver->names_asked->{"$name.test A"}, '>=', 2, "$name.test was asked for again, by and by");
}
like($last{turns}, qr/^failed\|address 127\.0\.0\.1 \(loopback\) is not allowed/, 'a name that has become inner is refused');
is($last{opens}, 'delivered|200', 'a name that has become public is reached');

# ---- By redirect, and by Host.
for my $status (301, 302, 303, 307, 308)
{
	$receiver->answer("/away-$status", { status => $status, headers => [ [ 'Location', "http://169.254.169.254:$port/away" ] ] });
	like(attempt("http://8.8.8.8:$port/away-$status"), qr/^failed\|$status\|/, "a $status to the cloud's metadata fails");
}
is($receiver->count(path => '/away'), 0, '... and is not followed');
for my $host ('Host', 'host', 'HOST', 'Host ', ':authority')
{
	my ($code, undef, $error) = $node->psql('postgres', qq{SELECT whisperer.subscribe('special', 'http://8.8.8.8/host', additional_headers => '{"$host": "127.0.0.1"}')});
	like($error, qr/additional_headers/, "a header \"$host\" is refused");
}

# ---- Through the token URL: what holds for the receiver's holds for it.
sub with_token { my ($url, %more) = @_; return attempt("http://8.8.8.8:$port/tokened", config => qq({"max_attempts": 1, "auth": {"auth_type": "token", "url": "$url", "username": "u", "password": "p"}}), %more); }
for my $way ('the worker', 'a session', 'the worker, by a proxy', 'a session, by a proxy')
{
	my %more = (sync => $way =~ /session/ ? 1 : 0);
	set(proxy => $way =~ /proxy/ ? $receiver->url('', port => 'proxy') : '');
	for my $host ('127.0.0.1', '2130706433', '0x7f.1', '[::1]', '[::ffff:127.0.0.1]', '10-0-0-0.test', '169.254.169.254', '[fe80::]', '[64:ff9b::10.0.0.1]')
	{
		like(with_token("http://$host:$port/inner-login", %more), qr/^failed\|.*address \S+ \([^()]+\) is not allowed; see whisperer\.allowed_networks/, "a token URL at $host is refused, from $way");
	}
}
set(proxy => '');
is($receiver->count(path => '/inner-login'), 0, '... and nobody was asked for a token');
$receiver->answer('/login', { status => 302, headers => [ [ 'Location', "http://127.0.0.1:$port/away" ] ] }, { body => '{"key": "abc"}' });
like(with_token("http://8.8.8.8:$port/login"), qr/^failed\|.*302/, 'a token URL that redirects is not followed');
is(with_token("http://public.test:$port/login"), 'delivered|200', 'a public one is asked');
is(join(' ', map { $_->{header}{authorization} } $receiver->requests(path => '/tokened')), 'Token abc', '... and only with its token is anything sent');
is($receiver->count(path => '/away'), 0, 'nothing went to an inner address');

# ---- allowed_networks opens exactly what it says, however it is written.
my @open = (
	[ '10.0.0.0/30, fd00:1::/64', [ '10.0.0.0', '10.0.0.3', '0xa000001', '[::ffff:10.0.0.2]', '[64:ff9b::10.0.0.2]', '[2002:a00:2::1]', '[fd00:1::]', '[fd00:1::ffff:ffff:ffff:ffff]' ],
		[ '10.0.0.4', '0xa000004', '9.255.255.255.test', '[::ffff:10.0.0.4]', '[2002:a00:4::1]', '[fd00:1:0:1::]', '[fd00:0:ffff::1]', '127.0.0.1', '[::1]' ] ],
	[ '127.0.0.1', [ '127.0.0.1', '127.1', '[::ffff:7f00:1]' ], [ '127.0.0.2', '[::1]', '0.0.0.0', '10.0.0.1' ] ],
	[ '::1', ['[::1]'], [ '127.0.0.1', '[::ffff:127.0.0.1]', '[::]', '[::127.0.0.1]' ] ],
	[ '::/0', [ '[::1]', '[fd00::1]' ], [ '127.0.0.1', '[::ffff:127.0.0.1]', '[64:ff9b::10.0.0.1]', '[2002:a00:1::]' ] ],
	[ '0.0.0.0/0', [ '10.0.0.1', '169.254.169.254', '240.0.0.1', '[64:ff9b::10.0.0.1]' ], [ '[::1]', '[fd00::1]' ] ]);
for my $case (@open)
{
	my ($networks, $in, $out) = @$case;
	set(allowed_networks => $networks);
	is(attempt("http://$_:$port/opened"), 'delivered|200', "allowed_networks = '$networks': $_ is reached") for @$in;
	like(attempt("http://$_:$port/closed"), qr/^failed\|(?:address \S+ \([^()]+\) is not allowed|name lookup)/, "... $_ is not") for @$out;
}
is($receiver->count(path => '/closed'), 0, 'nothing arrived from outside the networks');

# ---- With everything opened what was refused above arrives: it was not for another reason that it did not.
set(allowed_networks => '0.0.0.0/0, ::/0');
sql(q{SELECT whisperer.deliver_event('{}', 'special')});
my %got = results();
my $nobodys = qr/^\?|(?:multicast|broadcast|unspecified)$| 127\.255\.255\.255 | fe[89ab]/;    # or for more than one, or of no interface
my @missed = grep { !$refused{$_} && join(' ', @{ $expected{$_} }[ 0, 2, 1 ]) !~ $nobodys && $got{$_}[0] ne 'delivered' } sort keys %expected;
cmp_ok(scalar(grep { $_->[0] eq 'delivered' } values %got), '>', 700, 'with everything allowed they arrive');
is(join("\n", map { "$_: @{$got{$_}}" } @missed), '', 'with everything allowed all of them are reached, but for those nobody can call');
$node->stop;
done_testing();
