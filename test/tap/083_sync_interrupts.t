# A synchronous delivery gives way within a tenth of a second to a cancel, to a termination and to statement_timeout, also
# while a name look-up hangs that nothing can interrupt. While one hangs in the delivery worker, that one holds no transaction.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use File::Spec;
use Test::More;

use Whisperer::Node;
use Whisperer::Processes qw(looks_at);
use Whisperer::Receiver;

# The best of some tries counts: the machine may be busy with something else.
use constant { TRIES => 10, LIMIT => 100 };

# A look-up of hang.test never ends.
my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
append_to_file("$directory/hang.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
	if (node != NULL && strcmp(node, "hang.test") == 0)
		pause();
	return real(node, service, hints, res);
}
C
system_or_bail('cc', '-shared', '-fPIC', '-o', "$directory/hang.so", "$directory/hang.c", '-ldl');

my $receiver = Whisperer::Receiver->new;
my $url = $receiver->url('/hang');
$receiver->behave(path => '/hang', steps => [{hang => 'request'}]);

my $node;
{
	local $ENV{LD_PRELOAD} = "$directory/hang.so";
	$node = Whisperer::Node->started('main', settings => 'whisperer.request_timeout = 100');
}
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('receiver');
	SELECT whisperer.subscribe('receiver', '$url');
	SELECT whisperer.register_event_type('look-up');
	SELECT whisperer.subscribe('look-up', 'http://hang.test/')});
# Calls $1($2), and says after how many milliseconds that process is no longer at work.
$node->safe_psql('postgres', q{CREATE FUNCTION interrupt(how text, victim int) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE began timestamptz := clock_timestamp();
	BEGIN
		EXECUTE format('SELECT %I($1)', how) USING victim;
		LOOP
			PERFORM pg_stat_clear_snapshot();
			EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = victim AND state = 'active')
				OR clock_timestamp() > began + interval '1 minute';
		END LOOP;
		RETURN extract(epoch FROM clock_timestamp() - began) * 1000;
	END $$});

# In milliseconds, with a delivery of this type under way.
sub interrupted_after
{
	my ($type, $how) = @_;
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');
	$victim->query_until(qr/begun/, "\\echo begun\nSELECT whisperer.deliver_event('{}', '$type', _async => false);\n");
	# It is at work, and waits for its sockets.
	$node->poll_until('postgres', "SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid");
	my $took = $node->safe_psql('postgres', "SELECT interrupt('$how', $pid)");
	$how eq 'pg_terminate_backend' ? $victim->{run}->finish : $victim->quit;
	return $took;
}

# What tries took, until one was in time.
sub tries
{
	my ($try) = @_;
	my @took;
	do { push @took, $try->() } until $took[-1] < LIMIT || @took == TRIES;
	return @took;
}

for my $type ('receiver', 'look-up')
{
	for my $how ('pg_cancel_backend', 'pg_terminate_backend')
	{
		my @took = tries(sub { interrupted_after($type, $how) });
		cmp_ok(min(@took), '<', LIMIT, "$how while a $type hangs (@took ms)");
	}
	my @took = tries(sub {
		my ($rc, $out, $err) = $node->psql('postgres', qq{
			\\set VERBOSITY sqlstate
			SET statement_timeout = '200ms';
			SELECT clock_timestamp() AS began \\gset
			SELECT whisperer.deliver_event('{}', '$type', _async => false);
			\\echo :SQLSTATE
			SELECT (extract(epoch FROM clock_timestamp() - :'began'::timestamptz) * 1000)::int - 200}, on_error_stop => 0);
		like($out, qr/^57014$/m, "statement_timeout while a $type hangs");
		return (split /\n/, $out)[-1];
	});
	cmp_ok(min(@took), '<', LIMIT, "in time (@took ms late)");
}

# Nor does the delivery worker hold anything while one hangs.
$node->safe_psql('postgres', q{SELECT whisperer.deliver_event('{}', 'look-up')});
$node->poll_until('postgres', q{SELECT in_flight FROM whisperer.workers WHERE kind = 'delivery'}, '1');
# What it records and saves meanwhile, it may do slowly.
my @held;
do
{
	my $seen = looks_at($node, 100)->{'whisperer delivery'};
	is($seen->{busy}, 100, 'at every look the delivery worker waits for the name');
	push @held, $seen->{held};
} until $held[-1] <= 10 || @held == 3;
cmp_ok(min(@held), '<=', 10, "with neither a transaction nor a snapshot nor a lock (but for @held of them)");
$node->safe_psql('postgres', q{SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions});
$node->wait_settled;

# Nothing stays behind: no row, no process at work, and the server stops while the look-ups still hang.
is($node->safe_psql('postgres', q{SELECT count(*) FROM whisperer.webhook_events WHERE state <> 'cancelled'}), 0, 'no delivery');
$node->stop('fast');
done_testing();
