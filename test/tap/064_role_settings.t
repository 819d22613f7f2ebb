# A database, or the bootstrap superuser, whose sessions begin as somebody else (ALTER … SET role), who may do nothing: the
# processes work as ever, and functions of users run as their owner.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

plan skip_all => 'the first call of a countdown takes longer under valgrind than a countdown may' if $ENV{WHISPERER_POSTGRES};

# What the test itself says, it says as the superuser.
$ENV{PGOPTIONS} = '-c role=none';
my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub set { my ($setting) = @_; sql("ALTER SYSTEM $setting"); sql('SELECT pg_reload_conf()'); return; }

sql(qq{
	CREATE ROLE nobody_much;
	CREATE ROLE owner;
	CREATE TABLE noted (what text, role text);
	GRANT ALL ON noted TO owner;
	CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		\$\$ INSERT INTO public.noted VALUES ('callback', current_user) \$\$;
	CREATE FUNCTION soon(retry_count integer, kwargs jsonb) RETURNS double precision LANGUAGE sql AS
		\$\$ INSERT INTO public.noted VALUES ('countdown', current_user); SELECT 0.05 \$\$;
	SELECT whisperer.register_countdown('soon', 'soon');
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.grant_access('owner', 'subscribe');
	SET ROLE owner;
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/in')]}', callback => 'note', retry_countdown_config => '{"choice": "soon", "kwargs": {}}')});

my @cases = (
	[ 'none' => '' ],
	[ "the database's role" => 'DATABASE postgres SET role = nobody_much' ],
	[ "the superuser's role" => 'ROLE postgres SET role = nobody_much' ],
	[ "the superuser's role in the database" => 'ROLE postgres IN DATABASE postgres SET role = nobody_much' ],
	[ "the database's session_authorization" => 'DATABASE postgres SET session_authorization = nobody_much' ]);
my $log = $node->log_position;
for my $number (0 .. $#cases)
{
	my ($name, $setting) = @{ $cases[$number] };
	my ($worker) = $node->delivery_pids('postgres');
	sql("ALTER $setting") if $setting;
	# It is announced, and all processes start anew.
	sql("ALTER DATABASE postgres SET whisperer.max_attempts = @{[10 + $number]}");
	$node->poll_until('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $worker", '0');
	$receiver->answer('/in', { status => 500 }, { status => 200 });
	sql(q{TRUNCATE noted; SELECT whisperer.deliver_event('{}'::jsonb, 'made')});
	$node->wait_settled;
	# The second callback is called a moment after the result is there.
	$node->poll_until('postgres', q{SELECT string_agg(concat_ws(' ', what, role), ', ' ORDER BY what) FROM noted},
		'callback owner, callback owner, countdown owner');
	pass("$name: a failed attempt, a custom countdown, another attempt, and a callback after each");
	set("SET whisperer.retention = '@{[1 + $number]} microseconds'"); # another one: it is time to look
	$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.webhook_events', '0');
	pass("$name: retention");
	set("SET whisperer.retention = 0");
	sql('ALTER DATABASE postgres RESET ALL; ALTER ROLE postgres RESET ALL; ALTER ROLE postgres IN DATABASE postgres RESET ALL');
}
is(sql('SELECT count(*) FROM whisperer.function_failures'), '0', 'no function failed');
unlike($node->log_since($log), qr/WARNING|ERROR|FATAL|PANIC|could not/, 'nothing in the log that should not be there');
$node->stop;
done_testing();
