# What serializers and customizers made arrives, the same bytes on every attempt. parity rows 2, 4.
use strict;
use warnings;
use utf8;

use JSON::XS ();
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
my $in = sub { my $body = $_[0]->{body}; return JSON::XS->new->utf8->decode($body) };

# One table, two subscriptions; the first answer to each delivery is a failure.
$receiver->behave(path => $_, per => 'webhook-id', steps => [ { status => 500 }, { status => 200 } ]) for '/one', '/two';
my ($one, $two) = ($receiver->url('/one'), $receiver->url('/two'));
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE customer (id integer PRIMARY KEY, name text);
	CREATE TABLE package (id integer, customer_id integer);
	INSERT INTO customer VALUES (7, 'Ada ' || chr(233));
	CREATE FUNCTION package_payload(package) RETURNS jsonb STABLE LANGUAGE sql AS \$\$
		SELECT jsonb_build_object('id', \$1.id, 'customer', name) FROM public.customer WHERE id = \$1.customer_id \$\$;
	CREATE FUNCTION with_version(body jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS \$\$ SELECT body || '{"version": 2}' \$\$;
	SELECT whisperer.register_event_type('package-created', 'package_payload', 'with_version');
	SELECT whisperer.attach('package', 'package-created');
	SELECT whisperer.subscribe('package-created', url, 'secret', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}')
	FROM (VALUES ('$one'), ('$two')) AS u (url);
	INSERT INTO package VALUES (1, 7)});
$node->wait_settled;

for my $path ('/one', '/two')
{
	my @requests = $receiver->await($path, 2);
	is(scalar @requests, 2, "$path: two attempts");
	is($requests[0]{body}, $requests[1]{body}, "$path: the same bytes");
	my $body = $in->($requests[0]);
	is_deeply(
		$body,
		{
			event => { type => 'package-created', uuid => $requests[0]{id} =~ s/-//gr },
			payload => { id => 1, customer => "Ada \x{e9}" },
			version => 2
		},
		"parity row 4, $path: serializer and customizer, with the delivery's own uuid");
	my $recorded = $node->safe_psql('postgres',
		"SELECT request_payload FROM whisperer.webhook_events WHERE uuid = '$requests[0]{id}' AND delivered");
	is($requests[0]{body}, $recorded,
		"$path: webhook_events shows the body");
	is(scalar(grep { $_->[1] ne 'ok' } $receiver->verify($path, 'secret')), 0, "$path: signatures are of that body");
}

# A customizer's body in a database of another encoding.
$node->safe_psql('postgres',
	"CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
$node->create_whisperer('latin1');
$node->safe_psql(
	'latin1', q{
	CREATE FUNCTION shout(body jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT body || jsonb_build_object('shout', chr(233)) $$;
	SELECT whisperer.register_event_type('word', customizer => 'shout');
	SELECT whisperer.subscribe('word', '} . $receiver->url('/latin1') . q{');
	SELECT whisperer.deliver_event(jsonb_build_object('word', chr(252)), 'word')});
my ($request) = $receiver->await('/latin1', 1);
is_deeply([ @{ $in->($request) }{qw(shout payload)} ], [ "\x{e9}", { word => "\x{fc}" } ], 'LATIN1: sent as UTF-8');

done_testing();
