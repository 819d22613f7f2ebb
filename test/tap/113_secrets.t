# No secret is shown again (contract 11): not in the log when a statement that holds one fails, however it is sent, nor in
# what an error of ours says; and log_statement = none logs nothing of those that succeed.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "log_error_verbosity = verbose\nlog_min_error_statement = error\nlog_min_messages = debug1");
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $url = $receiver->url('/in');
sql(q{SELECT whisperer.register_event_type('package-created')});

my $auth = q({"auth_type": "token", "url": "http://127.0.0.1:1/", "username": "u", "password": "s3cret"});
my %failing = (
	qq(SELECT whisperer.subscribe('nothing', '$url', 's3cret')) => 'WH004',
	qq(SELECT whisperer.subscribe('package-created', '$url', 'whsec_s3cret!')) => '22023',
	qq(SELECT whisperer.subscribe('package-created', '$url', 's3cret', 'nothing')) => '42883',
	qq(SELECT whisperer.subscribe('{"event_type": "package-created", "target_url": "$url", "secret": "s3cret"}')) => '22023',
	qq(SELECT whisperer.subscribe('{"event_type": "package-created", "target_url": "$url", "auth": $auth}')) => '22023',
	qq(SELECT whisperer.subscribe('{"event_type": "nothing", "target_url": "$url", "config": {"auth": $auth}}')) => 'WH004',
	q(SELECT whisperer.subscribe('package-created', 'https://user:s3cret@example.com/')) => '22023',
	qq(SELECT whisperer.subscribe('package-created', '$url', additional_headers => '{"Authorization": "s3cret\\n"}')) => '22023',
	qq(SELECT whisperer.subscribe('package-created', '$url', config => '{"auth": {"auth_type": "bearer", "token": "s3cret s3cret"}}')) => '22023',
	qq(SELECT whisperer.subscribe('package-created', '$url', config => '{"auth": {"auth_type": "basic", "username": "a:b", "password": "s3cret"}}')) => '22023',
	q(SELECT whisperer.update_subscription(99, '{"secret_key": "s3cret"}')) => 'WH001',
	qq(DO \$\$ BEGIN PERFORM whisperer.subscribe('nothing', '$url', 's3cret'); END \$\$) => 'WH004',
	qq(PREPARE p(text) AS SELECT whisperer.subscribe('nothing', '$url', \$1); EXECUTE p('s3cret')) => 'WH004',
	qq(SELECT 1; SELECT whisperer.subscribe('nothing', '$url', 's3cret')) => 'WH004',
);
for my $statement (sort keys %failing)
{
	my $position = $node->log_position;
	my $state = $failing{$statement};
	my ($code, undef, $errors) = $node->psql('postgres', "\\set SHOW_CONTEXT never\n\\set VERBOSITY verbose\n$statement");
	like($errors, qr/ERROR: +$state: /, "$state: $statement");
	# psql repeats the line that an error of PostgreSQL's points at; ours point at none.
	unlike($errors, qr/s3cret/, '... says no secret');
	my $log = $node->log_since($position);
	like($log, qr/ERROR: +$state: /, '... is in the log');
	unlike($log, qr/s3cret/, '... without the statement');
}

# One that succeeds, attempts that fail, and what the views and a callback say of them.
my $position = $node->log_position;
sql(qq{CREATE TABLE called (response text);
	CREATE FUNCTION note(response jsonb, text, jsonb, payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.called VALUES (\$1::text || \$4::text)';
	SELECT whisperer.subscribe('package-created', '$url', 's3cret', 'note', additional_headers => '{"X-Key": "s3cret in a header"}',
		config => '{"max_attempts": 1, "auth": {"auth_type": "basic", "username": "u", "password": "s3cret"}}');
	SELECT whisperer.subscribe('package-created', '$url-token', 's3cret', 'note', config => '{"max_attempts": 1, "auth": $auth}');
	SELECT whisperer.deliver_event('{"id": 1}', 'package-created');
	SELECT whisperer.deliver_event('{"id": 2}', 'package-created', _async => false)});
$node->wait_settled;
$node->poll_until('postgres', 'SELECT count(*) FROM called', 4);
like(($receiver->requests(path => '/in'))[0]{header}{authorization}, qr/^Basic /, 'it was used');
unlike(sql("TABLE called; TABLE whisperer.webhook_events; TABLE whisperer.subscription_health; TABLE whisperer.function_failures; TABLE whisperer.event_types; TABLE whisperer.workers")
	. sql('SELECT s.id, s.config, s.callback, s.auth_type, s.has_secret, s.retry_countdown_config FROM whisperer.subscriptions s'), qr/s3cret|czNjcmV0/,
	'no view, no error and no callback says a secret');
unlike($node->log_since($position), qr/s3cret|czNjcmV0/, 'nor does the log, at debug1');

$node->stop;
done_testing();
