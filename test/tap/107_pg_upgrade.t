# pg_upgrade moves everything into a new cluster, which is a copy: it sends nothing until resume(), and then all of it, also to
# subscriptions of other roles.  Then resume() where numbers of transactions mean nothing: they lie in the future.
use strict;
use warnings;

use Cwd ();
use File::Spec;
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $old = Whisperer::Node->started('old');
my $new = Whisperer::Node->new('new');
$new->init;
my $secret = 'kept';
$receiver->answer('/failing', { status => 500 });

$old->safe_psql('postgres', 'CREATE ROLE shop; CREATE DATABASE shop OWNER shop');
$old->create_whisperer('shop');
$old->safe_psql(
	'shop', qq{
	CREATE TABLE thing (id integer PRIMARY KEY);
	SELECT whisperer.attach('thing', 'thing');
	SELECT whisperer.subscribe('thing', '@{[$receiver->url('/in')]}', '$secret');
	SELECT whisperer.subscribe('thing', '@{[$receiver->url('/failing')]}', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 3000}}');
	INSERT INTO thing VALUES (1)});
$receiver->await('/in', 1);
$old->safe_psql('shop', 'INSERT INTO thing VALUES (2)');
$old->poll_until('shop', q{SELECT count(*) FROM whisperer.pending WHERE retry_count = 1}, 2);
$old->poll_until('shop', q{SELECT count(*) FROM whisperer.webhook_events WHERE delivered}, 2);
$old->safe_psql('shop', $_) for 'ALTER SYSTEM SET whisperer.enabled = off', 'SELECT pg_reload_conf()';
$old->poll_until('shop', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'shop'}, 'disabled');
$old->safe_psql('shop', 'INSERT INTO thing VALUES (3)');
my $state = q{SELECT string_agg(concat_ws('|', uuid, subscription_id, state, retry_count, request_payload, response_http_status, created_date, relation), E'\n' ORDER BY uuid) FROM whisperer.webhook_events};
my $before = $old->safe_psql('shop', $state);
$old->stop;
my $sent = $receiver->count(path => '/in');

my ($bindir) = split /\n/, `pg_config --bindir`;
# Newer test modules give relative names.
my ($old_data, $new_data) = map { File::Spec->rel2abs($_->data_dir) } $old, $new;
my $here = Cwd::getcwd();
chdir $PostgreSQL::Test::Utils::tmp_check or die $!;
command_ok([ 'pg_upgrade', '--no-sync', '-U', 'postgres', '-d', $old_data, '-D', $new_data, '-b', $bindir, '-B', $bindir,
	'-s', $new->host, '-p', $old->port, '-P', $new->port ], 'pg_upgrade');
chdir $here or die $!;
my $log = -e $new->logfile ? $new->log_position : 0;
$new->start;
is($new->safe_psql('shop', $state), $before, 'all deliveries are there, the history too');
$new->poll_until('shop', q{SELECT state ~ 'held: copy' FROM whisperer.workers WHERE kind = 'delivery' AND database = 'shop'});
pass('it knows that it is a copy');
$new->safe_psql('shop', 'INSERT INTO thing VALUES (4)');
$new->safe_psql('postgres', qq{SELECT whisperer.register_event_type('other'); SELECT whisperer.subscribe('other', '@{[$receiver->url('/other')]}');
	SELECT whisperer.deliver_event('{}', 'other')});
$receiver->await('/other', 1);
is($receiver->count(path => '/in'), $sent, 'nothing is sent, while another database of the same cluster sends');
is(scalar(() = $new->log_since($log) =~ /copy/g), 1, 'the log says it once') or diag($new->log_since($log));

$receiver->answer('/failing', { status => 200 });
$new->safe_psql('shop', 'SELECT whisperer.resume()');
$receiver->await('/in', $sent + 2);
$new->safe_psql('shop', 'SELECT whisperer.retry(uuid) FROM whisperer.pending WHERE next_attempt_at > now()');
$new->wait_settled('shop');
is(scalar(grep { $_->[1] ne 'ok' } $receiver->verify('/in', $secret)), 0, 'resumed: signed with the secret it had');
is($new->safe_psql('shop', q{SELECT count(*) FROM whisperer.webhook_events WHERE NOT delivered}), '0', '... and all of it arrives');
my @ids = map { $_->{id} } $receiver->requests(path => '/in');
my %ids = map { $_ => 1 } @ids;
is(scalar(@ids) . ' ' . keys %ids, '4 4', '... once');

# Numbers of another cluster's transactions, in the future here.
$new->safe_psql('shop', q{ALTER DATABASE shop SET whisperer.enabled = off});
$new->poll_until('shop', q{SELECT state FROM whisperer.workers WHERE kind = 'delivery' AND database = 'shop'}, 'disabled');
$new->safe_psql('shop', q{INSERT INTO thing SELECT generate_series(10, 19);
	UPDATE whisperer.delivery SET xid = '123456789012'; UPDATE whisperer.subscription SET change_xid = '123456789012', owner_system = 1, owner_oid = 1;
	UPDATE whisperer.event_type_entry SET owner_system = 1, owner_oid = 1;
	UPDATE whisperer.home SET system_identifier = 1; ALTER DATABASE shop RESET whisperer.enabled});
$new->poll_until('shop', q{SELECT state ~ 'held: copy' FROM whisperer.workers WHERE kind = 'delivery' AND database = 'shop'});
is($new->safe_psql('shop', 'SELECT count(*) FROM whisperer.pending'), '20', 'held');
$new->safe_psql('shop', 'SELECT whisperer.resume()');
$new->wait_settled('shop');
is($receiver->count(path => $_), $_ eq '/in' ? 14 : 16, "$_: all of them, by the transaction of resume()") for qw(/in /failing);
is($new->safe_psql('shop', q{SELECT string_agg(DISTINCT owner, ',') FROM whisperer.subscriptions}), 'postgres', 'owners by their names');
$new->safe_psql('shop', 'SELECT whisperer.resume()');
$new->safe_psql('shop', 'INSERT INTO thing VALUES (20)');
$new->wait_settled('shop');
is($receiver->count(path => '/in'), 15, 'resume() where nothing is held does no harm');

unlike($new->log_since($log), qr/\b(ERROR|FATAL|PANIC):/, 'no error in the log');
$new->stop;
done_testing();
