# Secrets with a mark, and a search for the mark: in every view and table, in the log with everything switched on that PostgreSQL
# can log, in statistics, process titles, files and dumps, and in the memory of processes that have no business with them. The
# statements that set them hold none (the values come from a table), so that whatever is found is not the user's own statement.
use strict;
use warnings;
no warnings 'portable'; # addresses of 64 bits

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->new('main');
my $with_contrib = -e qx(pg_config --pkglibdir) =~ s/\n/\/pg_stat_statements.so/r;
# ANALYZE would copy rows of the tables into the memory of a process of PostgreSQL's.
$node->init(settings => "autovacuum = off\n" . ($with_contrib ? q{shared_preload_libraries = 'whisperer, auto_explain, pg_stat_statements'} : ''));
$node->start;
$node->create_whisperer('postgres');
sub sql { return $node->safe_psql('postgres', $_[0]); }

# As it is, as bytes in a plan, in base64 at its three offsets.
my $mark = qr/sEcReT|115\s+69\s+99\s+82\s+101\s+84|c0VjUmVU|zRWNSZV|NFY1JlV/;
sub clean
{
	my ($text, $what) = @_;
	my $hit = $text =~ $mark ? substr $text, $-[0] > 200 ? $-[0] - 200 : 0, 240 : undef;
	return is($hit, undef, $what);
}
like('Basic dTpzRWNSZVRf', $mark, 'a mark in base64 is found');

# ---- The vault, before anything is logged
my ($good, $bad, $token) = map { $receiver->url("/$_") } qw(good bad token);
$receiver->answer('/bad', { status => 500 });
$receiver->answer('/token', { status => 200, body => '{"key": "sEcReT_token"}' });
$receiver->answer('/no-token', { status => 401, body => 'sEcReT_refusal' });
$receiver->answer('/odd-token', { status => 200, body => '{"key": "sEcReT with spaces"}' });
$receiver->answer('/not-json', { status => 200, body => 'sEcReT' });
$receiver->answer('/reset', { cut => 'request' });
$receiver->answer('/nonsense', { raw => "no status line\r\n\r\n" });
$receiver->answer('/slow', ({ hang => 'request' }) x 1);
my $login = '"username": "sEcReT_user", "password": "sEcReT_password"';
my %vault = ( # url, secret, config.auth
	key => [ $good, 'sEcReT_key', 'null' ],
	whsec => [ "$good/2", 'whsec_c0VjUmVUX2tleQ==', 'null' ],
	basic => [ "$good/3", 'sEcReT_key', '{"auth_type": "basic", "username": "u", "password": "sEcReT_basic"}' ],
	bearer => [ "$bad/1", 'sEcReT_key', '{"auth_type": "bearer", "token": "sEcReT_bearer"}' ],
	token => [ "$good/4", 'sEcReT_key', qq({"auth_type": "token", "url": "$token", $login}) ],
	# Whatever goes wrong with a subscription in hand.
	(map { ("token $_" => [ "$good/token-$_", undef, qq({"auth_type": "token", "url": "@{[$receiver->url(qq(/$_))]}", $login}) ]) } qw(no-token odd-token not-json reset nonsense)),
	(map { ("token at $_->[0]" => [ "$good/$_->[0]", 'sEcReT_key', qq({"auth_type": "token", "url": "$_->[1]", $login}) ]) }
		[ refused => 'http://127.0.0.1:1/' ], [ inner => 'http://10.1.2.3/' ], [ nowhere => 'http://nowhere.invalid/' ], [ tls => $good =~ s/^http/https/r ]),
	(map { ("at $_" => [ $receiver->url("/$_"), 'sEcReT_key', '{"auth_type": "bearer", "token": "sEcReT_bearer"}' ]) } qw(reset nonsense slow)),
	(map { ("at $_->[0]" => [ $_->[1], 'sEcReT_key', '{"auth_type": "basic", "username": "u", "password": "sEcReT_basic"}' ]) }
		[ refused => 'http://127.0.0.1:1/' ], [ inner => 'http://10.1.2.3/' ], [ nowhere => 'http://nowhere.invalid/' ], [ tls => $good =~ s/^http/https/r ]),
);
sub literal { my $text = shift; return defined $text ? "'" . ($text =~ s/'/''/gr) . "'" : 'NULL'; }
sql(q{CREATE ROLE keeper LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE watcher LOGIN; CREATE ROLE caller LOGIN;
	CREATE TABLE vault (name text, url text, secret text, auth jsonb); GRANT SELECT ON vault TO keeper;
	CREATE FUNCTION public.callback(jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE LOG 'called with % % % %', $1, $2, $3, $4; RAISE 'failed with % % % %', $1, $2, $3, $4; END$$;
	CREATE FUNCTION public.countdown(integer, jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 1 / 0';
	CREATE TABLE public.parcel (id integer); GRANT INSERT ON public.parcel TO caller});
sql('INSERT INTO vault VALUES ' . join ', ', map { '(' . join(', ', map { literal($_) } $_, @{ $vault{$_} }) . ')' } sort keys %vault);

# ---- Everything on. (Each lower log_min_messages logs fewer of the same lines.)
my %loud = (log_min_messages => 'debug5', log_min_error_statement => 'debug5', log_statement => "'all'", log_error_verbosity => 'verbose', log_min_duration_statement => 0,
	log_duration => 'on', log_lock_waits => 'on', deadlock_timeout => "'10ms'", log_parameter_max_length => -1, log_parameter_max_length_on_error => -1, debug_print_parse => 'on',
	debug_print_rewritten => 'on', debug_print_plan => 'on', log_replication_commands => 'on', log_connections => 'on', log_disconnections => 'on', log_temp_files => 0, track_activity_query_size => 1048576,
	$with_contrib ? ('auto_explain.log_min_duration' => 0, 'auto_explain.log_nested_statements' => 'on', 'auto_explain.log_verbose' => 'on', 'auto_explain.log_analyze' => 'on',
		'auto_explain.log_settings' => 'on', 'auto_explain.log_triggers' => 'on', 'pg_stat_statements.track' => "'all'") : ());
$node->append_conf('postgresql.conf', join '', map { "$_ = $loud{$_}\n" } sort keys %loud);
$node->append_conf('postgresql.conf', "whisperer.request_timeout = 5\nrestart_after_crash = on\n");
$node->restart;
my $position = $node->log_position;
sql('CREATE EXTENSION pg_stat_statements') if $with_contrib;

sql(q{SELECT whisperer.register_event_type('told'); SELECT whisperer.register_countdown('failing', 'public.countdown'); SELECT whisperer.attach('public.parcel', 'told');
	SELECT whisperer.grant_access('keeper', 'subscribe'), whisperer.grant_access('boss', 'admin'), whisperer.grant_access('watcher', 'monitor'), whisperer.grant_access('caller', 'deliver')});
my $subscribe = q{whisperer.subscribe('told', url, secret, 'public.callback', '{"choice": "failing", "kwargs": {}}', config => jsonb_build_object('max_attempts', 2, 'auth', auth))};
sql(qq{SET ROLE keeper; SELECT $subscribe FROM vault; SELECT whisperer.update_subscription(s.id, jsonb_build_object('secret_key', v.secret, 'config', jsonb_build_object('auth', v.auth, 'max_attempts', 2)))
	FROM whisperer.subscriptions s JOIN vault v ON v.url = s.target_url});
is(sql('SELECT count(*) = (SELECT count(*) FROM vault) FROM whisperer.subscription_secret WHERE coalesce(secret_key, auth::text) ~ $$[s]EcReT|c0Vj$$'), 't', 'the secrets are there');
# Errors with a secret in hand, at every stage of subscribing.
for my $failing ("SELECT $subscribe FROM vault", q{SELECT whisperer.subscribe('nothing', url, secret) FROM vault}, q{SELECT whisperer.subscribe('told', 'ftp://x', secret) FROM vault},
	q{SELECT whisperer.subscribe('told', url || '/new', 'whsec_' || secret || '!') FROM vault WHERE name = 'key'}, q{SELECT whisperer.subscribe('told', url || '/new', secret, 'absent') FROM vault},
	q{SELECT whisperer.subscribe('told', url || '/new', secret, config => jsonb_build_object('auth', auth || '{"more": 1}')) FROM vault WHERE name = 'basic'},
	q{SELECT whisperer.subscribe('told', url || '/new', config => jsonb_build_object('auth', auth || '{"token": "a b"}')) FROM vault WHERE name = 'bearer'},
	q{SELECT whisperer.subscribe('told', url || '/new', config => jsonb_build_object('auth', auth || '{"url": "file:///"}')) FROM vault WHERE name = 'token'},
	q{SELECT whisperer.subscribe('told', url || '/new', config => jsonb_build_object('auth', auth || '{"header_format": "{}\n"}')) FROM vault WHERE name = 'token'},
	q{SELECT whisperer.subscribe(jsonb_build_object('event_type', 'told', 'target_url', url, 'secret_key', jsonb_build_array(secret))) FROM vault},
	q{SELECT whisperer.subscribe('told', url || '/new', secret, retry_countdown_config => '{"choice": "absent", "kwargs": {}}') FROM vault},
	q{SELECT whisperer.update_subscription(s.id, jsonb_build_object('secret_key', v.secret, 'target_url', (SELECT url FROM vault WHERE name = 'basic'))) FROM whisperer.subscriptions s JOIN vault v ON v.url = s.target_url WHERE v.name = 'key'},
	q{BEGIN READ ONLY; SELECT whisperer.subscribe('told', url || '/new', secret) FROM vault})
{
	my (undef, undef, $errors) = $node->psql('postgres', "SET ROLE keeper; \\set VERBOSITY verbose\n\\set SHOW_CONTEXT always\n$failing");
	like($errors, qr/ERROR:  \w{5}: /, $failing =~ s/ FROM vault.*//r);
	clean($errors, '... says none');
}
# Attempts, by the worker and by a session of somebody who only may deliver, with time-outs and a cancellation.
sql('SET ROLE caller; INSERT INTO public.parcel VALUES (1)');
my (undef, undef, $errors) = $node->psql('postgres', q{SET ROLE caller; SET client_min_messages = debug5; SELECT whisperer.deliver_event('{"id": 2}'::jsonb, 'told', _async => false);
	SET statement_timeout = 200; SELECT whisperer.deliver_event('{"id": 3}'::jsonb, 'told', _async => false)});
clean($errors, 'who delivers is told none, at debug5');
like($errors, qr/canceling statement due to statement timeout/, '... a cancelled delivery included');
$node->poll_until('postgres', 'SELECT count(*) = 0 FROM whisperer.webhook_events WHERE retry_count = 0');
$node->poll_until('postgres', 'SELECT count(*) = 0 FROM whisperer.job');
# By a second attempt, where it came too late for the first.
my ($used) = $receiver->await('/good/4', 1);
is($used->{header}{authorization}, 'Token sEcReT_token', 'a token was got, kept and used');

# ---- What is seen
for my $role (qw(postgres boss keeper watcher caller))
{
	for my $view (split /\n/, sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'v' ORDER BY 1}))
	{
		my (undef, $out, $said) = $node->psql('postgres', "SET ROLE $role; SELECT to_jsonb(v) FROM $view v");
		clean("$out$said", "$view, to $role");
	}
}
clean(sql("SELECT to_jsonb(t) FROM $_ t"), "$_, even to a superuser")
  for grep { $_ ne 'whisperer.subscription_secret' } split /\n/, sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'whisperer'::regnamespace AND relkind = 'r' ORDER BY 1});
clean(sql('SELECT to_jsonb(a) FROM pg_stat_activity a; SELECT to_jsonb(s) FROM pg_settings s'), 'pg_stat_activity and pg_settings');
clean(sql('SELECT query FROM pg_stat_statements'), 'pg_stat_statements') if $with_contrib;

# ---- Processes: titles, and memory of their own (what all share, the buffers, holds the tables)
my $bystander = $node->background_psql('postgres');
$bystander->query_safe('SET ROLE keeper; TABLE whisperer.subscriptions; TABLE whisperer.webhook_events; TABLE whisperer.subscription_health');
my $bystander_pid = $bystander->query_safe('SELECT pg_backend_pid()') =~ s/\D//gr;
my ($worker) = $node->delivery_pids('postgres');
my %processes = map { split /\|/, $_, 2 } split /\n/, sql(q{SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()});
clean(join("\n", map { -r "/proc/$_/cmdline" ? slurp_file("/proc/$_/cmdline") : '' } keys %processes), 'titles of processes');
# How often the mark is in a process's private memory; undef where the system does not let us look.
sub marks_in
{
	my $pid = shift;
	open my $maps, '<', "/proc/$pid/maps" or return;
	open my $memory, '<:raw', "/proc/$pid/mem" or return;
	my $count = 0;
	while (my $line = <$maps>)
	{
		my ($from, $to) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) rw.p / or next;
		my ($start, $length) = (hex $from, hex($to) - hex $from);
		sysseek $memory, $start, 0 or next;
		defined sysread $memory, my $bytes, $length or next;
		$count += () = $bytes =~ /sEcReT_\w/g;
	}
	return $count;
}
SKIP:
{
	my $found = marks_in($worker);
	skip 'the memory of other processes cannot be read here', 1 unless defined $found;
	cmp_ok($found, '>', 0, 'the delivery worker has them in its memory, where the search finds them');
	for my $pid (sort keys %processes)
	{
		next if $pid == $worker;
		my $marks = marks_in($pid) // next; # it is gone
		is($marks, 0, "not in that of $processes{$pid}" . ($pid == $bystander_pid ? ', a session that saw the views' : ''));
	}
	is(marks_in($node->{_pid}), 0, 'nor in that of the postmaster');
}
$bystander->quit;

# ---- Crash, journals, dumps
sql('INSERT INTO public.parcel VALUES (2)');
kill 'KILL', $worker;
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM whisperer.workers WHERE kind = 'delivery' AND pid <> $worker"), 'up again after a crash of the worker');
# One that is being made has another name a moment later.
clean(join('', map { eval { slurp_file($_) } // '' } grep { -f } glob $node->data_dir . '/pg_whisperer/*'), 'journals');
for my $role (qw(boss keeper watcher))
{
	my ($out, $said) = run_command([ 'pg_dump', '-U', $role, '-h', $node->host, '-p', $node->port, 'postgres' ]);
	clean("$out$said", "a dump by $role");
	like($said, qr/permission denied/, '... is refused');
}
my ($dump) = run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, '--exclude-table-data', 'vault', 'postgres' ]);
like($dump, $mark, "a superuser's dump has them, as documented");

my $log = $node->log_since($position);
like($log, qr/DEBUG.*:\s+CommitTransaction/, 'the log has everything');
like($log, qr/called with/, '... callbacks included');
like($log, qr/Query Text/, '... and plans') if $with_contrib;
clean($log, 'but no secret');
is(scalar(() = $log =~ /was terminated by signal/g), 1, 'and no process was ended but the one that was killed here');

$node->stop;
done_testing();
