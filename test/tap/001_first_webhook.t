# The main job: a trigger raises an event inside a transaction, and after the commit the subscriber
# gets one signed POST.  A rollback sends nothing (parity row 32).
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
my $secret = 'a secret of ours';

$node->safe_psql(
	'postgres', qq{
	CREATE TABLE package (id integer PRIMARY KEY, name text, weight numeric, made timestamptz);
	SELECT whisperer.register_event_type('package-created');
	SELECT whisperer.register_event_type('package-changed');
	SELECT whisperer.attach('package', 'package-created');
	SELECT whisperer.attach('package', 'package-changed', 'UPDATE OR DELETE');
	SELECT whisperer.subscribe('package-created', '@{[$receiver->url('/created')]}',
		secret_key => '$secret', additional_headers => '{"X-Shop": "one two"}');
	SELECT whisperer.subscribe('package-changed', '@{[$receiver->url('/changed?from=db')]}');
});

# An insert arrives, once, with the bytes and headers of the contract.
my $before = time();
$node->safe_psql('postgres',
	q{INSERT INTO package VALUES (1, 'Grüße "€" 😀', 1.50, '2024-02-29 12:00:00+02')});
my ($request) = $receiver->await('/created', 1);
my $after = time();
my $header = $request->{header};
my $id = $header->{'webhook-id'};

is($request->{method}, 'POST', 'a POST');
is($request->{target}, '/created', 'to the path of the URL');
like($id, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/, 'webhook-id is a UUIDv7');
my $hex = $id =~ tr/-//dr;
is( $request->{body},
	$node->safe_psql(
		'postgres', qq{
		SELECT jsonb_build_object('event', jsonb_build_object('type', 'package-created', 'uuid', '$hex'),
			'payload', to_jsonb(p) || '{"made": "2024-02-29T10:00:00+00:00"}') FROM package p}),
	'the body is what jsonb prints');
is($header->{'content-type'}, 'application/json', 'Content-Type');
my ($major) = $node->safe_psql('postgres', 'SHOW server_version_num') =~ /^(\d+)\d{4}$/;
my $version = $node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'whisperer'});
is($header->{'user-agent'}, "whisperer/$version (PostgreSQL $major)", 'User-Agent');
is($header->{'x-whisperer-event'}, 'package-created', 'X-Whisperer-Event');
is($header->{'x-shop'}, 'one two', 'an additional header');
is($header->{'content-length'}, length $request->{body}, 'Content-Length');
ok(!exists $header->{expect}, 'no Expect');
ok(!exists $header->{cookie}, 'no Cookie');
cmp_ok($header->{'webhook-timestamp'}, '>=', int $before, 'webhook-timestamp is now, at the earliest');
cmp_ok($header->{'webhook-timestamp'}, '<=', $after, 'webhook-timestamp is now, at the latest');
like($header->{'x-whisperer-signature'}, qr/^sha256=[0-9a-f]{64}$/, 'X-Whisperer-Signature');
like($header->{'webhook-signature'}, qr{^v1,[A-Za-z0-9+/]{43}=$}, 'webhook-signature');
# Not by the safety scan, which comes after an hour.
cmp_ok($request->{arrived} - $before, '<', 60, 'and promptly');

# What the views say of it.
$node->wait_settled;
is( $node->safe_psql(
		'postgres', qq{SELECT state, delivered, retry_count, response_http_status, error IS NULL,
			array_length(request_datetimes, 1), request_payload::text = \$body\$$request->{body}\$body\$,
			relation FROM whisperer.webhook_events WHERE uuid = '$id'}),
	'delivered|t|1|200|t|1|t|package',
	'webhook_events has it as delivered');

# A rollback, and a rollback to a savepoint, send nothing.
$node->safe_psql(
	'postgres', q{
	BEGIN;
	INSERT INTO package VALUES (2, 'never');
	ROLLBACK;
	BEGIN;
	INSERT INTO package VALUES (3, 'before');
	SAVEPOINT s;
	INSERT INTO package VALUES (4, 'never');
	ROLLBACK TO s;
	INSERT INTO package VALUES (5, 'after');
	COMMIT;
});
my ($code) = $node->psql('postgres', q{INSERT INTO package VALUES (6, 'never'), (1, 'a duplicate key')});
isnt($code, 0, 'a failing statement');
$receiver->await('/created', 3);
$node->wait_settled;
my @names = map { /"id": (\d+)/ } map { $_->{body} } $receiver->requests(path => '/created');
is(join(' ', sort @names), '1 3 5', 'only what was committed was sent');

# UPDATE sends the new row, DELETE the old one, to a URL with a query and without a secret.
$node->safe_psql('postgres', q{UPDATE package SET name = 'new' WHERE id = 3; DELETE FROM package WHERE id = 5});
my @changes = $receiver->await('/changed', 2);
$node->wait_settled;
is(scalar($receiver->requests(path => '/changed')), 2, 'one event for each change');
is(join(' ', sort map { $_->{body} =~ /"name": "(\w+)"/ } @changes), 'after new', 'NEW and OLD row');
is($changes[0]{target}, '/changed?from=db', 'the query of the URL is kept');
ok(!(grep { exists $_->{header}{'webhook-signature'} || exists $_->{header}{'x-whisperer-signature'} } @changes),
	'no signature without a secret');

# The connection was kept.
is($receiver->statistics->{connections} <= 3 ? 'few' : 'many', 'few', 'connections are kept alive');

done_testing();
