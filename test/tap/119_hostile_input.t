# What a subscriber or an event may put into a request: nothing gets into a header or a URL that ends a line, and whatever
# jsonb can hold arrives as it was, to the byte.
use strict;
use warnings;
use utf8;

use Digest::MD5 qw(md5_hex);
use Encode qw(encode_utf8);
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $base = $receiver->url('');
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
# The SQLSTATE of each statement, 00000 when it was taken; in one session.
sub codes
{
	my (@statements) = @_;
	my ($code, $out, $error) = $node->psql('postgres', encode_utf8(join '', "\\o /dev/null\n", map { "$_;\n\\warn code :SQLSTATE\n" } @statements), on_error_stop => 0);
	my @codes = $error =~ /^code ([0-9A-Z]{5})$/mg;
	die "psql answered " . @codes . ' of ' . @statements . " statements: $error" if @codes != @statements;
	return @codes;
}

# ---- Characters that must not get into a header or a URL: name => how SQL writes it, and its JSON text.
my %bad = (
	newline => [ q{\n}, '\n' ], return => [ q{\r}, '\r' ], both => [ q{\r\nX-Evil: 1}, '\r\nX-Evil: 1' ], tab => [ q{\t}, '\t' ], escape => [ q{\u001b[31m}, '\u001b[31m' ],
	delete => [ q{\u007f}, '\u007f' ], next_line => [ q{\u0085}, '\u0085' ], line_separator => [ q{\u2028}, '\u2028' ], paragraph_separator => [ q{\u2029}, '\u2029' ],
	right_to_left_override => [ q{\u202e}, '\u202e' ], left_to_right_embedding => [ q{\u202a}, '\u202a' ], isolate => [ q{\u2066}, '\u2066' ], pop_isolate => [ q{\u2069}, '\u2069' ]);
my %impossible = (nul => [ q{\u0000}, '\u0000' ], overlong_newline => [ q{\xc0\x8a}, undef ], overlong_nul => [ q{\xc0\x80}, undef ], cut_short => [ q{\xe2\x80}, undef ],
	surrogate => [ q{\ud800}, '\ud800' ], encoded_surrogate => [ q{\xed\xa0\x80}, undef ], beyond_unicode => [ q{\xf4\x90\x80\x80}, undef ], invalid => [ q{\xff}, undef ]);
my $id = sql(qq{SELECT whisperer.register_event_type('taken'); SELECT whisperer.subscribe('taken', '$base/taken')});
$id = (split /\n/, $id)[-1];
# where => SQL; %s is the text (E'…'), %j its JSON
my %places = (
	target_url => qq{SELECT whisperer.subscribe('taken', E'$base/a%sb')}, 'host' => qq{SELECT whisperer.subscribe('taken', E'http://a%sb.example/')},
	header_value => qq{SELECT whisperer.subscribe('taken', '$base/x', additional_headers => '{"X-A": "a%jb"}')},
	header_name => qq{SELECT whisperer.subscribe('taken', '$base/x', additional_headers => '{"X-A%jb": "a"}')},
	subscription_as_json => qq{SELECT whisperer.subscribe('{"event_type": "taken", "target_url": "$base/a%jb"}')},
	updated_url => qq{SELECT whisperer.update_subscription($id, '{"target_url": "$base/a%jb"}')},
	updated_header => qq{SELECT whisperer.update_subscription($id, '{"additional_headers": {"X-A": "a%jb"}}')},
	event_type => q{SELECT whisperer.register_event_type(E'a%sb')}, token_url => qq{SELECT whisperer.update_subscription($id,
		'{"config": {"auth": {"auth_type": "token", "url": "$base/a%jb", "username": "u", "password": "p"}}}')},
	bearer => qq{SELECT whisperer.update_subscription($id, '{"config": {"auth": {"auth_type": "bearer", "token": "a%jb"}}}')},
	header_format => qq{SELECT whisperer.update_subscription($id, '{"config": {"auth": {"auth_type": "token", "url": "$base/t", "username": "u", "password": "p", "header_format": "T {} a%jb"}}}')},
);
my @tries;
for my $place (sort keys %places)
{
	for my $name (sort keys %bad, keys %impossible)
	{
		my ($text, $json) = @{ $bad{$name} // $impossible{$name} };
		next if $places{$place} =~ /%j/ && !defined $json;
		push @tries, [ "$place: $name", $places{$place} =~ s/%s/$text/r =~ s/%j/$json/r, $bad{$name} ];
	}
}
my @codes = codes(map { $_->[1] } @tries);
# What is no text at all PostgreSQL refuses itself.
like($codes[$_], $tries[$_][2] ? qr/^22023$/ : qr/^(?:22021|22P02|22P05|42601|22023)$/, "$tries[$_][0] is refused") for 0 .. $#tries;
my @accepted = split /\n/, sql('SELECT target_url, additional_headers FROM whisperer.subscriptions');
is("@accepted", "$base/taken|{}", 'nothing of it was stored');

# Names and passwords that go through an encoding (base64, a form) may hold what they like, but no line gets out of it.
for my $auth ('{"auth_type": "basic", "username": "a", "password": "p\u202a"}', '{"auth_type": "basic", "username": "a\u0000", "password": "p"}', '{"auth_type": "basic", "username": "a\r\nX-Evil: 1", "password": "p"}')
{
	like((codes("SELECT whisperer.update_subscription($id, '{\"config\": {\"auth\": $auth}}')"))[0], qr/^22/, "refused: $auth");
}

# Overlong: at the limit, and one more.
for my $case (
	[ 'a URL', q{SELECT whisperer.subscribe('taken', rpad('http://127.0.0.1/', %d, 'x'))}, 2048 ],
	[ 'headers', qq{SELECT whisperer.subscribe('taken', '$base/long', additional_headers => jsonb_build_object('X', repeat('x', %d - 1)))}, 8192 ],
	[ 'an event type', q{SELECT whisperer.register_event_type(repeat('ü', %d))}, 124 ])
{
	my ($what, $statement, $limit) = @$case;
	is(join(' ', codes(map { sprintf $statement, $_ } $limit, $limit + 1)), '00000 22023', "$what at the limit is taken, and no longer one");
}
# What a token server says does not get out of its header either.
for my $token ('a\r\nX-Evil: 1', 'a\nb', 'a\u0000b', 'a b', '', 'a\u00fc', 'a\u202eb', 'x' x 20_000)
{
	$receiver->answer('/login', { body => qq({"key": "$token"}) });
	sql(q{SELECT whisperer.register_event_type('tokened')}) unless sql(q{SELECT count(*) FROM whisperer.event_types WHERE event_type = 'tokened'});
	my $one = sql(qq{SELECT whisperer.subscribe('tokened', '$base/tokened', config => '{"max_attempts": 1, "auth": {"auth_type": "token", "url": "$base/login", "username": "u", "password": "p"}}')});
	sql(q{SELECT whisperer.deliver_event('{}', 'tokened')});
	$node->poll_until('postgres', "SELECT state FROM whisperer.webhook_events WHERE subscription_id = $one", 'failed');
	like(sql("SELECT error FROM whisperer.webhook_events WHERE subscription_id = $one"), qr/token/, 'a token is refused: ' . substr $token, 0, 20);
	sql("SELECT whisperer.unsubscribe($one)");
}
is($receiver->count(path => '/tokened'), 0, '... and nothing sent with it');

# ---- Payloads: what is in the table is what arrives, byte by byte, and its signature holds.
my $digits = '1234567890' x 4;
my %payloads = (
	exponent_400 => q{'{"n": 1e400, "m": -1E+400, "s": 1e-400}'}, integer_of_40_digits => qq{'{"n": $digits, "m": -$digits, "f": $digits.$digits}'},
	largest_numeric => q{jsonb_build_object('n', repeat('9', 131072)::numeric)}, smallest_numeric => q{jsonb_build_object('n', ('0.' || repeat('0', 16382) || '1')::numeric)},
	zeros => q{'{"a": -0, "b": 0.0, "c": -0.000, "d": 0e10, "e": 1.10, "f": 100e-2}'}, beyond_2_to_the_53 => q{'{"n": 9007199254740993, "u": 18446744073709551615}'},
	floats => q{jsonb_build_object('max', 1.7976931348623157e308::float8, 'min', 5e-324::float8, 'third', 1/3::float8, 'r', 0.1::float4)},
	not_numbers => q{to_jsonb(row('NaN'::numeric, 'Infinity'::numeric, '-Infinity'::float8, 'NaN'::float8))},
	deep_arrays => q{jsonb_build_object('x', (repeat('[', 1000) || repeat(']', 1000))::jsonb)}, deep_objects => q{(repeat('{"x":', 1000) || '1' || repeat('}', 1000))::jsonb},
	deep_5000 => q{jsonb_build_object('x', (repeat('[', 5000) || repeat(']', 5000))::jsonb)},
	wide => q{(SELECT jsonb_object_agg('k' || i, i) FROM generate_series(1, 20000) i)},
	characters => q{jsonb_build_object('x', (SELECT string_agg(chr(i), '') FROM generate_series(1, 65535) i WHERE i NOT BETWEEN 55296 AND 57343), 'y', chr(1114111) || chr(65536))},
	hostile_text => q{jsonb_build_object(E'a"\\\\\r\n\u202e\ufeff', E'</script>\u2028\u0085\x7f\x01\\\\u0000'::text, '', '')},
	escapes => q{'{"a": "\u0041\/\b\f\ud83d\ude00", "__proto__": {"constructor": null}, "webhook-id": "x"}'}, same_key_twice => q{'{"a": 1, "a": {"a": 2}, "b": 3, "a": "last"}'},
	long_key => q{jsonb_build_object(repeat('k', 100000), true)}, empty => q{'{}'},
);
sql('SELECT ' . join ', ', map { "whisperer.register_event_type('$_'), whisperer.subscribe('$_', '$base/$_', secret_key => 'secret')" } sort keys %payloads);
sql(join '', map { "SELECT whisperer.deliver_event(($payloads{$_})::jsonb, '$_');\n" } sort keys %payloads);
$node->wait_settled;
for my $name (sort keys %payloads)
{
	my ($request) = $receiver->requests(path => "/$name");
	my $hex = $request->{id} =~ tr/-//dr;
	my $expected = qq('{"event": {"type": "$name", "uuid": "$hex"}, "payload": ' || ($payloads{$name})::jsonb::text || '}');
	is(md5_hex($request->{body}), sql("SELECT md5(convert_to($expected, 'UTF8'))"), "$name arrives as jsonb prints it (@{[length $request->{body}]} bytes)");
	is(($receiver->verify("/$name", 'secret'))[0][1], 'ok', '... signed');
	is(sql("SELECT request_payload::text = convert_from(decode('" . unpack('H*', $request->{body}) . "', 'hex'), 'UTF8') FROM whisperer.webhook_events WHERE uuid = '$request->{id}'"), 't', '... and is shown so');
}

# ---- The same through triggers: columns whose values no JSON number, or no reader's stack, can hold. What a row's column of type
# json or jsonb has is the same as without one; json text is read as jsonb.
sql(q{CREATE TABLE odd (id integer, n numeric, f float8, r float4, d date, t timestamp, z timestamptz, j jsonb, k json, a numeric[], h bytea);
	CREATE TABLE odd_plain (LIKE odd); ALTER TABLE odd_plain DROP COLUMN h; CREATE TABLE odd_set (LIKE odd_plain); -- without bytea: rows that are printed without to_jsonb
	SELECT whisperer.register_event_type(t) FROM unnest(ARRAY['odd', 'odd_plain', 'odd_set']) t});
sql(qq{SELECT whisperer.attach('odd', 'odd', 'INSERT OR UPDATE OR DELETE'), whisperer.attach('odd_plain', 'odd_plain'); SELECT whisperer.subscribe(t, '$base/' || t) FROM unnest(ARRAY['odd', 'odd_plain', 'odd_set']) t;
	CREATE TRIGGER tell AFTER INSERT ON odd_set REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('odd_set')});
my @odd = (
	q{'NaN', 'NaN', 'NaN', 'infinity', 'infinity', 'infinity'}, q{'Infinity', 'Infinity', 'Infinity', '-infinity', '-infinity', '-infinity'}, q{'-Infinity', '-Infinity', '-Infinity', '4713-01-01 BC', '4713-01-01 00:00 BC', '4713-01-02 00:00+00 BC'},
	qq{$digits.$digits, 1.7976931348623157e308, 3.4028235e38, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00'}, q{('0.' || repeat('0', 16382) || '1')::numeric, 5e-324, 1e-45, '0001-01-01', '0001-01-01', '0001-01-01 00:00+00'},
	q{repeat('9', 131072)::numeric, -0.0::float8, 0.1, '1970-01-01', 'epoch', 'epoch'});
my $deep = q{(repeat('{"x":[', 500) || '1e400' || repeat(']}', 500))};
sql(join '', map { my $table = $_; map { "INSERT INTO $table VALUES ($_, $odd[$_], $deep\::jsonb, $deep\::json, '{NaN,Infinity,1e400}'@{[$table eq 'odd' ? q{, '\\x00ff'} : '']});\n" } 0 .. $#odd } qw(odd odd_plain odd_set));
sql('UPDATE odd SET h = NULL WHERE id = 0; DELETE FROM odd WHERE id = 0');
$node->wait_settled;
for my $table (qw(odd odd_plain odd_set))
{
	my %expected = map { split /\|/, $_ } split /\n/, sql(qq{SET timezone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = hex; SELECT md5(convert_to(to_jsonb(o)::text, 'UTF8')), id FROM $table o});
	my @got = map { md5_hex($_->{body} =~ s/^.*?"payload": (.*)\}$/$1/sr) } $receiver->requests(path => "/$table");
	delete @expected{@got};
	is(join(' ', values %expected), '', "$table: what no JSON number can hold arrives as to_jsonb has it, 1,000 levels of JSON beside it");
	is(scalar @got, @odd + ($table eq 'odd' ? 2 : 0), '... once for each');
}
is(sql(q{SELECT count(*) FROM whisperer.webhook_events WHERE event_type LIKE 'odd%' AND NOT delivered}), '0', '... and is recorded');

# ---- The size: exactly max_payload_size, one byte less, one more.
sql(q{SELECT whisperer.register_event_type('sized')});
sql("SELECT whisperer.subscribe('sized', '$base/sized')");
for my $limit ([ undef, 1024 * 1024 ], [ 1024, 1024 ], [ '8MB', 8 * 1024 * 1024 ])
{
	my ($setting, $bytes) = @$limit;
	my @set = defined $setting ? "SET whisperer.max_payload_size = '$setting'" : ();
	for my $case ([ -1, '00000' ], [ 0, '00000' ], [ 1, '54000' ])
	{
		my ($more, $expected) = @$case;
		my $fill = $bytes + $more - length '{"x": ""}';
		is((codes(@set, "SELECT whisperer.deliver_event(jsonb_build_object('x', repeat('x', $fill)), 'sized')"))[-1], $expected, "$bytes bytes @{[sprintf '%+d', $more]}: $expected");
	}
}
$node->wait_settled;
is(join(' ', sort { $a <=> $b } map { length($_->{body}) - length qq({"event": {"type": "sized", "uuid": "@{['0' x 32]}"}, "payload": }) } $receiver->requests(path => '/sized')),
	join(' ', map { ($_ - 1, $_) } 1024, 1024 * 1024, 8 * 1024 * 1024), 'those that were taken arrive whole');

# ---- Of all that was sent, no request has a header that it should not have.
my %names;
$names{ lc $_->[0] }++ for map { @{ $_->{headers} } } grep { $_->{path} ne '/login' } $receiver->requests;
is(join(' ', sort keys %names), 'content-length content-type host user-agent webhook-id webhook-signature webhook-timestamp x-whisperer-event x-whisperer-signature', 'no header was smuggled in');
unlike($node->log_since(0), qr/\b(?:FATAL|PANIC):|server process .* was terminated/, 'nothing broke');
$node->stop;
done_testing();
