# Secrets and the log at every log_min_messages and log_min_error_statement, with statements that succeed and that fail, as literals
# and as bind parameters. And a session of a pooler, which set secrets as one role and delivered with them, and goes on as another.
use strict;
use warnings;
no warnings 'portable'; # addresses of 64 bits

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
# ANALYZE would copy rows of the tables into the memory of a process of PostgreSQL's.
my $node = Whisperer::Node->started('main', settings => "autovacuum = off\nlog_error_verbosity = verbose\nlog_parameter_max_length = 0\nlog_parameter_max_length_on_error = 0");
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $mark = qr/sEcReT|c0VjUmVU|zRWNSZV|NFY1JlV/;    # as it is, and in base64 at its three offsets
$receiver->answer('/fails', { status => 500 });
$receiver->answer('/token', { body => '{"key": "sEcReT_token"}' });
$receiver->answer('/odd-token', { body => '{"key": "sEcReT with spaces"}' });
my ($url, $fails, $token, $odd) = map { $receiver->url("/$_") } qw(in fails token odd-token);
sql(q{CREATE ROLE keeper; CREATE ROLE next; SELECT whisperer.register_event_type('told'); SELECT whisperer.grant_access('keeper', 'subscribe'), whisperer.grant_access('next', 'subscribe');
	CREATE FUNCTION public.callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'called with % % % %', $1, $2, $3, $4; RAISE 'failed with % % % %', $1, $2, $3, $4; END$$;
	GRANT ALL ON SCHEMA public TO PUBLIC});

# Statements with :secret for the secret, which makes JSON of it where it must; the SQLSTATE of those that fail.
my $auth = qq(jsonb_build_object('auth_type', 'token', 'url', '%s', 'username', 'u', 'password', :secret));
my @statements = (
	[ qq{SELECT whisperer.subscribe('told', '$url/' || :n, :secret, 'public.callback', config => jsonb_build_object('max_attempts', 1, 'auth', jsonb_build_object('auth_type', 'basic', 'username', 'u', 'password', :secret)))} ],
	[ qq{SELECT whisperer.subscribe('told', '$fails/' || :n, :secret, 'public.callback', config => jsonb_build_object('max_attempts', 1, 'auth', jsonb_build_object('auth_type', 'bearer', 'token', :secret)))} ],
	(map { my ($where, $path) = @$_; [ qq{SELECT whisperer.subscribe('told', '$url/$path' || :n, :secret, config => jsonb_build_object('max_attempts', 1, 'auth', @{[sprintf $auth, $where]}))} ] } [ $token, 't' ], [ $odd, 'o' ], [ 'http://127.0.0.1:1/', 'r' ]),
	[ qq{SELECT whisperer.update_subscription(id, jsonb_build_object('secret_key', :secret || '!')) FROM whisperer.subscriptions WHERE target_url = '$url/' || :n} ],
	[ qq{SELECT whisperer.subscribe('absent', '$url/' || :n, :secret)}, 'WH004' ], [ qq{SELECT whisperer.subscribe('told', '$url/' || :n, :secret)}, 'WH002' ],
	[ qq{SELECT whisperer.subscribe('told', '$url/x', 'whsec_' || :secret || '!')}, '22023' ], [ qq{SELECT whisperer.subscribe('told', 'http://' || :secret || ':x\@example.com/')}, '22023' ],
	[ qq{SELECT whisperer.subscribe('told', '$url/x', config => jsonb_build_object('auth', jsonb_build_object('auth_type', 'bearer', 'token', :secret || ' ')))}, '22023' ],
	[ q{SELECT whisperer.update_subscription(999999, jsonb_build_object('secret_key', :secret))}, 'WH001' ], [ q{SELECT whisperer.update_subscription(:n, jsonb_build_object('secret', :secret))}, '22023|WH001' ]);
my ($number, @wrong) = (0);
sub run_as
{
	my ($how, $secret) = @_;
	$number++;
	for (@statements)
	{
		my ($statement, $state) = @$_;
		$statement =~ s/:n\b/'$number'::text/g if $statement !~ /\(:n,/;
		$statement =~ s/:n\b/$number/g;
		my $said;
		if ($how eq 'literal')
		{
			(undef, undef, $said) = $node->psql('postgres', "SET ROLE keeper;\n\\set VERBOSITY verbose\n\\set SHOW_CONTEXT always\n" . $statement =~ s/:secret/'$secret'::text/gr);
		}
		else
		{
			# pgbench binds its variables.
			my $file = "$PostgreSQL::Test::Utils::tmp_check/bound.sql";
			unlink $file;
			append_to_file($file, $statement =~ s/:secret/:secret::text/gr . ";\n");
			local $ENV{PGOPTIONS} = '-c role=keeper';
			IPC::Run::run([ 'pgbench', '-n', '-t', 1, '-M', 'extended', '-f', $file, '-D', "secret=$secret", '-h', $node->host, '-p', $node->port, 'postgres' ], '>', \my $out, '2>', \$said);
		}
		push @wrong, "$how: $statement: $said" if $how eq 'literal' && ($state ? $said !~ /ERROR:  (?:$state):/ : $said =~ /ERROR/) || $said =~ $mark;
		push @wrong, "$how succeeded or failed: $statement: $said" if $how eq 'bound' && ($state ? 1 : 0) != ($said =~ /ERROR/ ? 1 : 0);
	}
	return;
}

sub set_levels
{
	my %levels = (log_min_messages => $_[0], log_min_error_statement => $_[1]);
	sql("ALTER SYSTEM SET $_ = '$levels{$_}'") for keys %levels;
	sql('SELECT pg_reload_conf()');
	$node->poll_until('postgres', q{SELECT current_setting('log_min_messages') || ' ' || current_setting('log_min_error_statement')}, "@_");
	return;
}
for my $level (qw(debug5 debug4 debug3 debug2 debug1 info notice warning error log fatal panic))
{
	my $position = $node->log_position;
	@wrong = ();
	# With log_min_error_statement at a level that is logged, PostgreSQL says the user's statement beside each message of its own
	# (docs/security.md): what is said of whisperer's, then, is seen with bind parameters.
	set_levels($level, 'error');
	run_as('literal', "sEcReT_$level");
	set_levels($level, $level);
	run_as('bound', "sEcReT_$level");
	sql(q{SELECT whisperer.deliver_event('{"id": 1}'::jsonb, 'told'); SELECT whisperer.deliver_event('{"id": 2}'::jsonb, 'told', _async => false)});
	$node->wait_settled;
	$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.job', '0');
	is(join("\n", @wrong), '', "$level: statements end as they should, and say no secret");
	my $log = $node->log_since($position);
	my ($hit) = $log =~ /(.{0,200}$mark.{0,40})/s;
	is($hit, undef, '... nor does the log');
	like($log, qr/WH004/, '... which has their errors') if $level !~ /^(?:log|fatal|panic)$/;
	like($log, qr/DEBUG/, '... and more') if $level =~ /debug/;
	sql('SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions WHERE is_active');
	$receiver->forget;
}

# ---- A session of a pooler: keeper's secrets, and a delivery with them; then it is another's.
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe("SET ROLE keeper;\nSELECT whisperer.subscribe('told', '$url/pooled', 'sEcReT_pooled', config => '{\"auth\": {\"auth_type\": \"bearer\", \"token\": \"sEcReT_pooled\"}}');");
$session->query_safe(q{SELECT whisperer.deliver_event('{"id": 3}'::jsonb, 'told', _async => false)});
is(($receiver->await('/in/pooled', 1))[0]{header}{authorization}, 'Bearer sEcReT_pooled', 'a session delivers with the secret that it set');
my $pid = $session->query_safe('SELECT pg_backend_pid()') =~ s/\D//gr;
my $seen = '';
$seen .= $session->query($_) for 'RESET ROLE; DISCARD ALL; SET ROLE next', (map { "SELECT to_jsonb(v) FROM whisperer.$_ v" } qw(subscriptions webhook_events subscription_health function_failures)),
  q{SELECT * FROM pg_prepared_statements}, q{SELECT * FROM pg_cursors}, q{SELECT to_jsonb(s) FROM pg_settings s WHERE name LIKE 'whisperer%'}, q{SELECT to_jsonb(a) FROM pg_stat_activity a}, q{SELECT * FROM whisperer.subscription_secret},
  q{SELECT whisperer.deliver_event('{"id": 4}'::jsonb, 'told', _async => false)};
unlike($seen, $mark, '... which the next role that has it does not see');
# How often the mark is in a process's private memory; undef where the system does not let us look.
sub marks_in
{
	my $of = shift;
	open my $maps, '<', "/proc/$of/maps" or return;
	open my $memory, '<:raw', "/proc/$of/mem" or return;
	my $count = 0;
	while (my $line = <$maps>)
	{
		my ($from, $to) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) rw.p / or next;
		sysseek $memory, hex $from, 0 or next;
		defined sysread $memory, my $bytes, hex($to) - hex($from) or next;
		$count += () = $bytes =~ /sEcReT_pooled/g;
	}
	return $count;
}
SKIP:
{
	my ($worker) = $node->delivery_pids('postgres');
	# It loads a subscription a moment after that was committed.
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $found;
	while (defined($found = marks_in($worker)) && $found == 0 && time() < $end) { sql('SELECT 1') }
	skip 'the memory of other processes cannot be read here', 2 unless defined $found;
	# As docs/security.md has it: such a session may have them until it ends; nobody else has.
	cmp_ok($found, '>', 0, 'the delivery worker has it, where the search finds it');
	is(join(' ', grep { (marks_in($_) // 0) > 0 } grep { $_ != $worker && $_ != $pid } split /\n/, sql('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()')), '', 'no process has it but that session and the delivery worker');
}
$session->quit;
unlike($node->log_since(0), qr/\bPANIC:|was terminated/, 'nothing broke');
$node->stop;
done_testing();
