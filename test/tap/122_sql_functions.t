# Functions that are not what they were when they were named, and tables that are a trap: what runs, and as whom. Every
# function of the attacker's leaves a row in evil.loot, with the role that it ran as.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => 'whisperer.callback_timeout = 60s');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub loot { return sql("SELECT coalesce(string_agg(DISTINCT concat_ws(' ', what, 'as', who), ', ' ORDER BY concat_ws(' ', what, 'as', who)), '') FROM evil.loot"); }
# What a statement of a superuser's comes to: the SQLSTATE of its error, or nothing.
sub state_of
{
	my (undef, undef, $errors) = $node->psql('postgres', "\\set VERBOSITY sqlstate\n$_[0]");
	return $errors =~ /ERROR:  (\w{5})/ ? $1 : '';
}

sql(q{
	CREATE ROLE keeper; CREATE ROLE mallory; CREATE ROLE other; -- keeper names functions in a schema where anybody may make them
	SELECT whisperer.grant_access('keeper', 'admin');
	CREATE SCHEMA evil; GRANT USAGE, CREATE ON SCHEMA evil TO keeper, mallory, other;
	CREATE TABLE evil.loot (who text, what text); GRANT ALL ON evil.loot TO PUBLIC});

# ---- Functions replaced between check and use
my %signature = (
	serializer => [ 'jsonb', 'jsonb', '$1' ],
	customizer => [ 'jsonb', 'jsonb', '$1' ],
	validator => [ 'jsonb', 'jsonb', '$1' ],
	countdown => [ 'integer, jsonb', 'integer', '1000' ],
	callback => [ 'jsonb, text, jsonb, jsonb', 'integer', '1' ],
);
sub body { my ($kind, $note) = @_; return "\$\$BEGIN INSERT INTO evil.loot VALUES (current_user, '$note'); RETURN $signature{$kind}[2]; END\$\$"; }
sub make { my ($kind, $note) = @_; return "CREATE OR REPLACE FUNCTION evil.$kind($signature{$kind}[0]) RETURNS $signature{$kind}[1] LANGUAGE plpgsql AS " . body($kind, $note); }
sub full { my $kind = shift; return "evil.$kind($signature{$kind}[0])"; }

sql("SET ROLE mallory; " . make($_, 'first')) for sort keys %signature;
sql(q{SET ROLE keeper; SELECT whisperer.register_event_type('serializer', 'evil.serializer'), whisperer.register_event_type('customizer', customizer => 'evil.customizer'),
	whisperer.register_event_type('countdown'), whisperer.register_event_type('callback'),
	whisperer.register_countdown('counted', 'evil.countdown'), whisperer.register_countdown('checked', 'evil.countdown', 'evil.validator')});
$receiver->answer('/countdown', { status => 500 });
# Two attempts, of which the first has a countdown: it is called once, whenever the second is made.
my %with = (callback => q{, callback => 'evil.callback'},
	countdown => q{, retry_countdown_config => '{"choice": "counted", "kwargs": {}}', config => '{"max_attempts": 2}'});
my %subscription;
for my $kind (qw(serializer customizer countdown callback))
{
	my $url = $receiver->url("/$kind");
	$subscription{$kind} = sql("SET ROLE keeper; SELECT whisperer.subscribe('$kind', '$url'" . ($with{$kind} // '') . ')');
}

# Each makes use of its function, for a superuser, and returns the SQLSTATE that comes of it.
sub failure
{
	my $kind = shift;
	$node->poll_until('postgres', q{SELECT count(*) = 0 FROM whisperer.job});
	my $state = sql("SELECT sqlstate FROM whisperer.function_failures WHERE kind = '$kind' ORDER BY occurred DESC LIMIT 1");
	sql('TRUNCATE whisperer.function_failure');
	return $state;
}
my %use = (
	(map { my $kind = $_; $kind => sub { return state_of("SELECT whisperer.deliver_event('{}'::jsonb, '$kind')"); } } qw(serializer customizer)),
	validator => sub { return state_of(qq{SELECT whisperer.update_subscription($subscription{serializer}, '{"retry_countdown_config": {"choice": "checked", "kwargs": {}}}')}); },
	callback => sub {
		sql(q{SELECT whisperer.deliver_event('{}'::jsonb, 'callback')});
		$node->wait_settled;
		return failure('callback');
	},
	countdown => sub {
		my $uuid = sql(q{SELECT (whisperer.deliver_event('{}'::jsonb, 'countdown'))[1]});
		$node->poll_until('postgres', "SELECT count(*) = 1 FROM whisperer.webhook_events WHERE uuid = '$uuid' AND retry_count >= 1");
		$node->psql('postgres', "SELECT whisperer.cancel('$uuid')"); # refused when both were made
		return failure('countdown');
	},
);
# Role, what it does (KIND: the function; FULL: with its types), what runs and as whom, the SQLSTATE.
my @changes = (
	[ 'nothing', '', 'first as keeper', '' ],
	[ 'CREATE OR REPLACE by its owner', sub { 'SET ROLE mallory; ' . make($_[0], 'second') }, 'second as keeper', '' ],
	[ 'another owner', 'ALTER FUNCTION FULL OWNER TO postgres', 'second as keeper', '' ],
	[ 'EXECUTE revoked', 'REVOKE ALL ON FUNCTION FULL FROM PUBLIC', '', '42501' ],
	[ 'and given back', 'GRANT EXECUTE ON FUNCTION FULL TO keeper; ALTER FUNCTION FULL OWNER TO mallory', 'second as keeper', '' ],
	[ 'SECURITY DEFINER', 'SET ROLE mallory; ALTER FUNCTION FULL SECURITY DEFINER', 'second as mallory', '' ],
	[ 'a role of its own', 'ALTER FUNCTION FULL SECURITY INVOKER; ALTER FUNCTION FULL SET role = postgres', '', '42501' ],
	[ 'a session user of its own', 'ALTER FUNCTION FULL RESET ALL; ALTER FUNCTION FULL SET session_authorization = postgres', '', '42501' ],
	[ 'a search_path of its own', 'ALTER FUNCTION FULL RESET ALL; ALTER FUNCTION FULL SET search_path = evil', 'second as keeper', '' ],
	[ 'dropped', 'DROP FUNCTION FULL', '', '42883' ],
	[ 'a procedure instead', sub { my $kind = shift; "SET ROLE mallory; CREATE PROCEDURE evil.$kind($signature{$kind}[0]) LANGUAGE plpgsql AS \$\$BEGIN INSERT INTO evil.loot VALUES (current_user, 'procedure'); END\$\$" }, '', '42809' ],
	[ 'a set instead', sub { my $kind = shift; "DROP PROCEDURE evil.$kind; SET ROLE mallory; CREATE FUNCTION evil.$kind($signature{$kind}[0]) RETURNS SETOF $signature{$kind}[1] LANGUAGE sql AS \$\$INSERT INTO evil.loot VALUES (current_user, 'set'); SELECT NULL::$signature{$kind}[1]\$\$" }, '', '42809' ],
	[ 'a polymorphic one instead', sub { my $kind = shift; my $types = $signature{$kind}[0] =~ s/jsonb$/anyelement/r;
		"DROP FUNCTION evil.$kind; SET ROLE mallory; CREATE FUNCTION evil.$kind($types) RETURNS $signature{$kind}[1] LANGUAGE plpgsql AS " . body($kind, 'polymorphic') }, '', '42883' ],
	# The name is what is kept (a dump must find the function again): whoever may create in the schema fills it. It runs as who named it, and not as who writes.
	[ 're-created by another role', sub { 'SET ROLE other; ' . make($_[0], 'third') }, 'third as keeper', '' ],
	[ 'the schema closed', 'REVOKE USAGE ON SCHEMA evil FROM keeper', '', '42501' ],
	[ 'and opened', 'GRANT USAGE ON SCHEMA evil TO keeper', 'third as keeper', '' ],
);
for my $kind (sort keys %signature)
{
	for my $change (@changes)
	{
		my ($what, $statement, $ran, $state) = @$change;
		$statement = ref $statement ? $statement->($kind) : $statement =~ s/FULL/full($kind)/ger;
		my (undef, undef, $errors) = $node->psql('postgres', "TRUNCATE evil.loot; $statement");
		is($errors, '', "$kind, $what: done") if $errors ne '';
		my $got = $use{$kind}->();
		is(loot() . "; $got", "$ran; $state", "$kind, $what");
	}
	sql('GRANT USAGE ON SCHEMA evil TO keeper');
}

# ---- A role that is no longer there, nor who it was
sql(q{TRUNCATE evil.loot; CREATE ROLE leaver; GRANT USAGE ON SCHEMA evil TO leaver; SELECT whisperer.grant_access('leaver', 'admin')});
sql(q{SET ROLE leaver; SELECT whisperer.register_event_type('left', 'evil.serializer')});
sql("SELECT whisperer.subscribe('left', '@{[$receiver->url('/left')]}')");
sql('DROP OWNED BY leaver; DROP ROLE leaver; CREATE ROLE leaver SUPERUSER');
is(state_of(q{SELECT whisperer.deliver_event('{}'::jsonb, 'left')}) . loot(), '55000', 'a type whose owner was dropped runs nothing as a superuser that got the name');

# ---- A table that is a trap: what whisperer adds to what PostgreSQL runs itself, with a superuser at work
sql(q{
	CREATE SCHEMA trap AUTHORIZATION mallory; GRANT USAGE ON SCHEMA trap TO PUBLIC;
	SET ROLE mallory;
	CREATE FUNCTION trap.note(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN INSERT INTO evil.loot VALUES (current_user, $1); RETURN true; END$$;
	ALTER FUNCTION trap.note(text) VOLATILE;
	CREATE TYPE trap.colour AS ENUM ('red');
	CREATE FUNCTION trap.to_json(trap.colour) RETURNS json LANGUAGE plpgsql AS $$BEGIN PERFORM trap.note('cast to json'); RETURN '"x"'; END$$;
	CREATE CAST (trap.colour AS json) WITH FUNCTION trap.to_json(trap.colour);
	CREATE FUNCTION trap.to_text(trap.colour) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM trap.note('cast to text'); RETURN 'x'; END$$;
	CREATE CAST (trap.colour AS text) WITH FUNCTION trap.to_text(trap.colour) AS IMPLICIT;
	CREATE FUNCTION trap.to_jsonb(trap.colour) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN PERFORM trap.note('cast to jsonb'); RETURN '"x"'; END$$;
	CREATE CAST (trap.colour AS jsonb) WITH FUNCTION trap.to_jsonb(trap.colour) AS ASSIGNMENT;
	CREATE DOMAIN trap.checked AS integer CHECK (trap.note('domain'));
	CREATE TYPE trap.pair AS (number trap.checked, colour trap.colour);
	CREATE FUNCTION trap.quick(integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1';
	CREATE TABLE trap.bait (id integer DEFAULT 1, number trap.checked, colour trap.colour, both_ trap.pair, many trap.checked[],
		doubled integer GENERATED ALWAYS AS (trap.quick(id)) STORED, CONSTRAINT c CHECK (trap.note('check')));
	CREATE INDEX bait_index ON trap.bait (trap.quick(id)) WHERE trap.quick(id) > 0;
	CREATE OR REPLACE FUNCTION trap.quick(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM trap.note('generated or index'); RETURN $1; END$$;
	CREATE FUNCTION trap.fire() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM trap.note('trigger'); RETURN NEW; END$$;
	CREATE TRIGGER a BEFORE INSERT OR UPDATE ON trap.bait FOR EACH ROW EXECUTE FUNCTION trap.fire();
	CREATE TRIGGER z AFTER INSERT OR UPDATE ON trap.bait FOR EACH ROW EXECUTE FUNCTION trap.fire();
	ALTER TABLE trap.bait ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON trap.bait USING (trap.note('policy')) WITH CHECK (trap.note('policy'));
	CREATE RULE r AS ON DELETE TO trap.bait DO ALSO SELECT trap.note('rule')});
my $insert = q{INSERT INTO trap.bait VALUES (1, 2, 'red', '(3,red)', '{4,5}')};
my $update = q{UPDATE trap.bait SET id = 2};
my %native;
for my $statement ($insert, $update)
{
	sql('TRUNCATE evil.loot');
	sql("SET ROLE postgres; $statement");
	$native{$_} = 1 for split /, /, loot();
}
ok($native{'domain as postgres'} && $native{'trigger as postgres'}, "what PostgreSQL itself runs of a table's owner as whoever writes, whisperer cannot help");
sub added { return join ', ', grep { !$native{$_} } split /, /, loot(); }

sql(q{TRUNCATE evil.loot; SELECT whisperer.register_event_type('bait');
	SELECT whisperer.attach('trap.bait', 'bait', 'INSERT OR UPDATE OR DELETE', columns => '{id,colour}')});
is(loot(), '', 'attach() by a superuser runs nothing of the table');
sql("SELECT whisperer.subscribe('bait', '@{[$receiver->url('/bait')]}')");
for my $statement ($insert, $update, 'SELECT whisperer.deliver_event(b, $$bait$$) FROM trap.bait b')
{
	sql('TRUNCATE evil.loot');
	sql($statement);
	is(added() || loot(), 'cast to json as mallory', "$statement: a cast, as the table's owner");
}
like(($receiver->await('/bait', 1))[0]{body}, qr/"colour": "x"/, 'the event arrives');
# With a serializer: of jsonb, and of the row; as the type's owner, who is a superuser. The table's cast stays its owner's.
sql(q{
	CREATE FUNCTION public.of_jsonb(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
	CREATE FUNCTION public.of_row(trap.bait) RETURNS jsonb LANGUAGE sql AS $$SELECT pg_catalog.jsonb_build_object('id', $1.id)$$});
for my $serializer ('public.of_jsonb', 'public.of_row')
{
	sql(qq{SELECT whisperer.update_event_type('bait', '{"serializer": "$serializer"}'); TRUNCATE evil.loot});
	sql('SELECT whisperer.deliver_event(b, $$bait$$) FROM trap.bait b');
	is(loot(), $serializer eq 'public.of_row' ? '' : 'cast to json as mallory', "$serializer: no more");
}
# Everything that touches deliveries of it later.
$node->wait_settled;
sql('TRUNCATE evil.loot');
sql(q{SELECT whisperer.retry(uuid, true) FROM whisperer.webhook_events WHERE event_type = 'bait'; TABLE whisperer.webhook_events});
$node->wait_settled;
sql(q{SELECT whisperer.prune('1 microsecond'); SELECT whisperer.detach('trap.bait', 'bait')});
is(loot(), '', 'sending, views, prune() and detach() run nothing of it');
sql(q{SELECT whisperer.deliver_event(b, 'bait') FROM trap.bait b});
$node->command_ok([ 'pg_dump', '-f', "$PostgreSQL::Test::Utils::tmp_check/trap.sql", 'postgres' ], 'a dump');
is(loot(), '', 'neither does a dump');

# ---- Row-level security on the source table is of no concern to the trigger, and the trigger of none to it
sql(q{CREATE TABLE public.private (id integer, owner name); ALTER TABLE public.private ENABLE ROW LEVEL SECURITY;
	CREATE POLICY mine ON public.private USING (owner = current_user) WITH CHECK (owner = current_user);
	GRANT ALL ON public.private TO keeper, other; SELECT whisperer.register_event_type('private'); SELECT whisperer.attach('public.private', 'private', 'INSERT OR UPDATE OR DELETE')});
sql("SELECT whisperer.subscribe('private', '@{[$receiver->url('/private')]}')");
is(state_of(q{SET ROLE keeper; INSERT INTO public.private VALUES (1, 'other')}), '42501', 'a row that may not be written raises no event');
sql(q{SET ROLE keeper; INSERT INTO public.private VALUES (2, 'keeper'); SET ROLE other; UPDATE public.private SET id = 3; DELETE FROM public.private});
sql(q{SET ROLE keeper; DELETE FROM public.private});
is(join(' ', map { $_->{body} =~ /"id": (\d)/ } $receiver->await('/private', 2)), '2 2', 'nor does one that cannot be seen');

$node->stop;
done_testing();
