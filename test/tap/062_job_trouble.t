# A process that makes callbacks and ends with an error, of ours or the server's and not of the callback, is started again later each
# time; one that had done well for a while is started again at once, however many failed before it.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Whisperer::Clock;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $clock = Whisperer::Clock->new;
my $node = Whisperer::Node->new('main');
$node->init;
$clock->preloaded(sub { $node->start });
$node->create_whisperer('postgres');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(qq{
	CREATE TABLE called (n int);
	CREATE FUNCTION note(response jsonb, event_type text, instance jsonb, payload jsonb) RETURNS void LANGUAGE sql AS
		\$\$ INSERT INTO public.called VALUES ((instance->>'n')::int) \$\$;
	CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'trouble with the table of jobs'; END \$\$;
	CREATE TRIGGER trouble BEFORE DELETE ON whisperer.job EXECUTE FUNCTION trouble();
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '@{[$receiver->url('/t')]}', callback => 'note')});

my $process = q{FROM pg_stat_activity WHERE backend_type = 'whisperer callback'};
my $number = 0;
sub deliver { sql("SELECT whisperer.deliver_event('{\"n\": @{[++$number]}}', 't')"); return; }
sub called { $node->poll_until('postgres', "SELECT count(*) FROM called WHERE n = $number", '1'); return; }

# Until so many processes have ended with the error since then.
sub failed
{
	my ($times, $log) = @_;
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $count = 0;
	until ($count >= $times || time() > $end)
	{
		usleep(20_000);
		$count = () = $node->log_since($log) =~ /"whisperer callback" \(PID \d+\) exited with exit code 1/g;
	}
	# The next one may have ended by now.
	cmp_ok($count, '>=', $times, "$times processes have ended");
	return;
}

# One, and four more after 1, 2, 4 and 8 seconds.
my $log = $node->log_position;
my $start = time();
deliver();
failed(5, $log);
cmp_ok(time() - $start, '>=', 1 + 2 + 4 + 8, 'each waits longer');
like($node->log_since($log), qr/ERROR:  trouble with the table of jobs/, 'the log says why');
is(sql('SELECT count(*) FROM whisperer.job'), '1', 'the call waits');
sql('ALTER TABLE whisperer.job DISABLE TRIGGER trouble');
called();

# The one that made it works for a day, and then there is trouble once more. (It leaves when it has had nothing to do for a while:
# then the next one is given its day.)
my $same = 0;
my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
for (my $day = 1; !$same && time() < $end; $day++)
{
	my $pid = sql("SELECT pid $process");
	$clock->set($day);
	deliver();
	called();
	$same = $pid ne '' && sql("SELECT pid $process") eq $pid;
}
ok($same, 'it is the same process');
$log = $node->log_position;
sql('ALTER TABLE whisperer.job ENABLE TRIGGER trouble');
deliver();
failed(1, $log);
sql('ALTER TABLE whisperer.job DISABLE TRIGGER trouble');
$start = time();
called();
# Not half a minute, as the sixth in a row.
cmp_ok(time() - $start, '<', 25, 'it is not held responsible for what failed before it');

$node->stop;
done_testing();
