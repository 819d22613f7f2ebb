# Public functions called inside functions of others: SECURITY DEFINER ones act as their owner, whoever called them, and never as a
# superuser who did; functions without it act as whoever they are called by, the owner of a definer's function included.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
sub sql { return $node->safe_psql('postgres', $_[0]); }
# What a role's statement answers, or its SQLSTATE.
sub as
{
	my ($role, $statement) = @_;
	my ($code, $out, $error) = $node->psql('postgres', "SET ROLE $role;\n\\set VERBOSITY sqlstate\n$statement", on_error_stop => 1);
	return $error =~ /ERROR:  (\w{5})/ ? $1 : $error ne '' ? $error : $out;
}
my $number = 0;
sub url { return $receiver->url('/to/' . ++$number); }
sub owner { my ($url) = @_; return sql("SELECT owner FROM whisperer.subscriptions WHERE target_url = '$url'"); }

# app and other may subscribe, bare may nothing, web may nothing but call. Each has functions that hand through what they are given:
# "by_<role>" as their owner, "plainly" as the caller; "nested" go through two.
sql(q{CREATE ROLE app; CREATE ROLE other; CREATE ROLE bare; CREATE ROLE web; CREATE ROLE root SUPERUSER;
	SELECT whisperer.register_event_type('told'), whisperer.grant_access('app', 'subscribe'), whisperer.grant_access('other', 'subscribe');
	CREATE SCHEMA f; GRANT USAGE, CREATE ON SCHEMA f TO PUBLIC;
	CREATE FUNCTION f.plainly(call text) RETURNS text LANGUAGE plpgsql AS $$DECLARE result text; BEGIN EXECUTE call INTO result; RETURN result; END$$});
for my $role (qw(app other bare root))
{
	sql(qq{SET ROLE $role; CREATE FUNCTION f.by_$role(call text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS \$\$DECLARE result text; BEGIN EXECUTE call INTO result; RETURN result; END\$\$});
}
sql(q{SET ROLE app; CREATE FUNCTION f.sql_by_app(url text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$SELECT whisperer.subscribe('told', url)$$});
sub literal { return "'" . ($_[0] =~ s/'/''/gr) . "'"; }
# through('by_app', 'plainly', 'SELECT …'): that statement within the second function within the first.
sub through { my @functions = @_; my $statement = pop @functions; $statement = "SELECT f.$_(" . literal($statement) . ')' for reverse @functions; return $statement; }

# ---- Whose a subscription is
for my $case (
	[ web => ['by_app'], 'app' ], [ other => ['by_app'], 'app' ], [ root => ['by_app'], 'app' ], [ postgres => ['by_other'], 'other' ],
	[ app => ['plainly'], 'app' ], [ root => ['plainly'], 'root' ],
	[ web => [ 'by_app', 'plainly' ], 'app' ], [ root => [ 'by_app', 'plainly' ], 'app' ], [ root => [ 'plainly', 'by_app' ], 'app' ], [ root => [ 'by_app', 'by_other' ], 'other' ],
	[ web => [ 'by_app', 'by_other', 'plainly' ], 'other' ], [ app => [ 'by_other', 'by_app' ], 'app' ], [ web => [ 'by_root', 'by_app', 'plainly' ], 'app' ], [ app => ['by_root'], 'root' ])
{
	my ($role, $functions, $expected) = @$case;
	my $url = url();
	like(as($role, through(@$functions, "SELECT whisperer.subscribe('told', '$url')")), qr/^\d+$/, "$role, through @$functions: subscribes");
	is(owner($url), $expected, "... $expected is the owner");
}
# As app's function has it, in SQL, with the call perhaps inlined; and the next one is the caller's own again, also after an error.
my ($first, $second, $third) = map { url() } 1 .. 3;
like(as('root', "SELECT f.sql_by_app('$first')"), qr/^\d+$/, 'a function in SQL');
is(owner($first), 'app', '... is its owner\'s, too');
like(as('app', qq{DO \$\$BEGIN PERFORM f.by_other('SELECT whisperer.subscribe(''absent'', ''http://127.0.0.1/'')'); EXCEPTION WHEN SQLSTATE 'WH004' THEN PERFORM whisperer.subscribe('told', '$second'); END\$\$;
	SELECT f.by_other('SELECT whisperer.subscribe(''told'', ''$third'')')}), qr/^\d+$/, 'one that fails, and one that does not');
is(owner($second) . ' ' . owner($third), 'app other', '... each is whose function made it');

# ---- What may be done, and with whose. Who may nothing can nothing, though a superuser or somebody who may calls it.
for my $role (qw(web app root))
{
	is(as($role, through('by_bare', $_)), '42501', "$role, through by_bare: $_")
	  for q{SELECT whisperer.subscribe('told', 'http://127.0.0.1/')}, q{SELECT whisperer.deliver_event('{}'::jsonb, 'told')}, q{SELECT whisperer.prune()}, q{SELECT whisperer.resume()};
}
is(as('root', through('by_app', $_)), '42501', "a superuser, through by_app: $_") for q{SELECT whisperer.grant_access('web', 'admin')}, q{SELECT whisperer.prune()}, q{SELECT whisperer.reassign('other', 'app')}, q{SELECT count(*) FROM whisperer.subscription_secret};

$receiver->behave(path => '/down', steps => [ { status => 500 } ]);
sql(q{SELECT whisperer.unsubscribe(id) FROM whisperer.subscriptions});
my %id = map { my $role = $_; $role => as($role, "SELECT whisperer.subscribe('told', '@{[$receiver->url('/down')]}', retry_countdown_config => '{\"choice\": \"fixed\", \"kwargs\": {\"seconds\": 10000}}')") } qw(app other);
is(as('web', through('by_app', q{SELECT cardinality(whisperer.deliver_event('{"id": 1}'::jsonb, 'told'))})), '2', 'web delivers through by_app');
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.pending WHERE retry_count = 1', 2);
my %uuid = map { $_ => sql("SELECT uuid FROM whisperer.pending WHERE subscription_id = $id{$_}") } qw(app other);
my %calls = (
	retry => [ sub { "SELECT whisperer.retry('$uuid{$_[0]}')" }, 'WH003' ],
	retry_failed => [ sub { "SELECT whisperer.retry_failed($id{$_[0]})" }, 'WH001' ],
	update => [ sub { qq(SELECT whisperer.update_subscription($id{$_[0]}, '{"config": {"mine": 1}}')) }, 'WH001' ],
	deliver_again => [ sub { "SELECT whisperer.deliver_event(NULL::jsonb, 'told', event_uuid => '$uuid{$_[0]}')" }, 'WH003' ],
	cancel => [ sub { "SELECT whisperer.cancel('$uuid{$_[0]}')" }, 'WH003' ],
	unsubscribe => [ sub { "SELECT whisperer.unsubscribe($id{$_[0]})" }, 'WH001' ]);
for my $call (qw(retry retry_failed update deliver_again cancel unsubscribe))
{
	my ($statement, $unknown) = @{ $calls{$call} };
	is(as($_->[0], through(@{ $_->[1] }, $statement->('other'))), $unknown, "$call: other's is unknown to $_->[0], through @{$_->[1]}")
	  for [ web => ['by_app'] ], [ other => ['by_app'] ], [ root => ['by_app'] ], [ other => [ 'by_app', 'plainly' ] ], [ root => [ 'plainly', 'by_app' ] ];
	unlike(as('web', through('by_app', 'plainly', $statement->('app'))), qr/^(?:\w{5}|.*ERROR.*)$/s, "... app's own is not");
}
is(sql(q{SELECT state FROM whisperer.webhook_events WHERE subscription_id = } . $id{app}), 'cancelled', "app's delivery was cancelled");
is(sql(q{SELECT state FROM whisperer.webhook_events WHERE subscription_id = } . $id{other}), 'pending', "... other's was not touched");

# ---- A trigger of app's own, with its rights, for a writer without any
sql(q{CREATE TABLE public.parcel (id integer); GRANT INSERT ON public.parcel TO web; ALTER TABLE public.parcel OWNER TO app;
	SET ROLE app; CREATE FUNCTION f.tells() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN PERFORM whisperer.deliver_event(NEW, 'told'); RETURN NULL; END$$;
	CREATE TRIGGER tells AFTER INSERT ON public.parcel FOR EACH ROW EXECUTE FUNCTION f.tells()});
is(as('web', 'INSERT INTO public.parcel VALUES (7)'), '', 'a trigger function that is SECURITY DEFINER delivers for a writer without rights');
sql('SET ROLE app; ALTER FUNCTION f.tells() SECURITY INVOKER');
is(as('web', 'INSERT INTO public.parcel VALUES (8)'), '42501', '... and without it does not');
is(sql(q{SELECT string_agg(request_payload->'payload'->>'id', ' ') FROM whisperer.webhook_events WHERE subscription_id = } . $id{other} . q{ AND request_payload->'payload'->>'id' > '1'}), '7', '... one event');
unlike($node->log_since(0), qr/\b(?:FATAL|PANIC):/, 'nothing broke');
$node->stop;
done_testing();
