# The operating system lets the server start no process for a while: it is tried again now and then, and not at once for ever;
# and a callback that was to be called then is called when there is room.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

plan skip_all => 'there is no prlimit' if system('prlimit --version >/dev/null 2>&1') != 0;
plan skip_all => 'the superuser may start as many processes as it likes' if $> == 0;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
$node->safe_psql('postgres', qq{
	CREATE TABLE called (n int);
	CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		\$\$ INSERT INTO public.called VALUES ((instance->>'n')::int) \$\$;
	SELECT whisperer.register_event_type('made');
	SELECT whisperer.subscribe('made', '@{[$receiver->url('/in')]}', callback => 'note')});
my ($worker) = $node->delivery_pids('postgres');
my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

# Sessions cannot be started either: these are there before.
my ($session, $holder) = map { $node->background_psql('postgres', on_error_die => 1) } 1, 2;
# The soft limit; the hard one stays, up to which it may be raised again.
sub limit { my ($soft) = @_; system('prlimit', '--pid', $postmaster, "--nproc=$soft:") == 0 or die 'prlimit'; return; }
my $before = qx(prlimit --pid $postmaster --nproc --output SOFT --noheadings --raw);
chomp $before;
my $not_forked = qr/could not fork (?:background )?worker process/;
my $log = $node->log_position;
sub not_forked { my $times = () = $node->log_since($log) =~ /$not_forked/g; return $times; }
sub wait_until
{
	my ($condition, $what) = @_;
	return ok($node->await($condition, $what), $what);
}

# --- a callback
limit(0);
$session->query_safe(q{SELECT whisperer.deliver_event('{"n": 1}'::jsonb, 'made'); SELECT whisperer.wait_until_settled()});
wait_until(sub { not_forked() >= 3 }, 'a process for callbacks cannot be started, and it is tried again');
limit($before);
$node->poll_until('postgres', 'SELECT count(*) FROM called', '1');
pass('the callback is called when it can be');

# --- a delivery worker that ends with an error: by the second request to leave, when it waits for a lock
$node->poll_until('postgres', q{SELECT count(*) FROM whisperer.workers WHERE kind = 'callback'}, '0');
$holder->query_safe('BEGIN; LOCK TABLE whisperer.subscription');
kill 'HUP', $worker; # it looks at its tables
$node->poll_until('postgres', "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $worker", 'Lock');
limit(0);
$log = $node->log_position;
my $ended = sub { $node->log_since($log) =~ /\(PID $worker\) exited with exit code 1/ };
wait_until(sub { kill 'TERM', $worker; $ended->() }, 'the worker has ended');
$holder->query_safe('ROLLBACK');
$node->wait_for_log(qr/starts the delivery worker of database "postgres" again in 4 s\n.*Its process could not be started; failures in a row: 3\./, $log);
cmp_ok(not_forked(), '<=', 4, 'another one is tried later each time');
limit($before);
$session->quit;
$holder->quit;
$node->delivery_pids('postgres');
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{"n": 2}'::jsonb, 'made')});
$node->poll_until('postgres', 'SELECT count(*) FROM called', '2');
pass('and there is one when there can be');

$node->stop;
done_testing();
