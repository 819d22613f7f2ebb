# What a power cut leaves of the files in pg_whisperer (they are not synced): whatever is in them, and whatever is in their place, the
# server starts, and all that was pending arrives. They are hints; the tables have everything.
use strict;
use warnings;

use File::Path qw(remove_tree);
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main', settings => "restart_after_crash = on\nwhisperer.max_in_flight_per_subscription = 8");
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $url = $receiver->url('/in');
my $events = 20;
sql(qq{CREATE TABLE called (uuid uuid);
	CREATE FUNCTION called_back(response jsonb, text, jsonb, jsonb) RETURNS void LANGUAGE sql AS
		\$\$ INSERT INTO public.called VALUES ((response->>'event_uuid')::uuid) \$\$;
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '$url', callback => 'called_back', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}')});
my $oid = sql(q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
my $directory = $node->data_dir . '/pg_whisperer';
my ($journal, $launcher, $taken) = ("$directory/$oid.0.journal", "$directory/launcher", "$directory/$oid.callback.taken");

my $seed = $ENV{WHISPERER_SEED} // int(time() * 1000) % 2**31;
srand($seed);
note "WHISPERER_SEED=$seed";
sub random_bytes { return join '', map { chr int rand 256 } 1 .. $_[0]; }
sub overwrite
{
	my ($file, $bytes) = @_;
	open(my $handle, '>', $file) or die "$file: $!";
	binmode $handle;
	print $handle $bytes;
	close $handle or die "$file: $!";
	return;
}

my ($size, $head); # of a journal: as it was made by this version, and its first eight bytes
# Of the files: what becomes of them, while the server is down.
my @cases = (
	[ 'gone with their directory', sub { remove_tree($directory); } ],
	[ 'empty', sub { overwrite($_, '') for $journal, $launcher, $taken; } ],
	[ 'short', sub { overwrite($journal, substr($_[0], 0, 1001)); overwrite($launcher, 'whisperer laun'); overwrite($taken, "\1" x 33); } ],
	[ 'zeroes', sub { overwrite($_, "\0" x $size) for $journal, $launcher, $taken; } ],
	[ 'garbage', sub { overwrite($_, random_bytes($size)) for $journal, $launcher, $taken; } ],
	[ 'garbage after a good head', sub {
		overwrite($journal, $head . random_bytes($size - 8));
		overwrite($launcher, "whisperer launcher 1\n" . random_bytes(10_000)); } ],
	# Each of its entries says something of some delivery, none of which there is.
	[ 'plausible nonsense', sub {
		my $entry = ($size - 8) / 4096;
		overwrite($journal, $head . join('', map { pack('L', $_ % 4) . random_bytes($entry - 4) } 1 .. 4096));
		overwrite($launcher, "whisperer launcher 1\n" . join('', map { "$_ 3 1 99999999999\n" } 20_000 .. 20_500) . "-1 -1 -1 -1\n"); } ],
	[ 'torn: half of the pages are of another time', sub {
		my $torn = $_[0];
		substr($torn, 8192 * $_, 4096) = "\0" x 4096 for 0 .. $size / 8192 - 1;
		overwrite($journal, $torn);
		overwrite($launcher, "whisperer launcher 1\n$oid 1 1"); } ],
	[ 'of an older version', sub {
		overwrite($journal, "1JHW" . substr($_[0], 4));
		overwrite($launcher, "whisperer launcher 0\n$oid 9 1 1\n"); } ],
	[ 'larger', sub { overwrite($journal, $_[0] . random_bytes(100_000)); overwrite($launcher, 'x' x 1_000_000); } ],
	[ 'others beside them', sub {
		overwrite("$directory/$_", random_bytes($size)) for "$oid.1.journal", "$oid.31.journal", "$oid.x.journal", '0.0.journal', 'launcher.new';
		unlink $launcher; } ],
	[ 'a directory in the place of what calls left', sub { mkdir $taken; } ],
	[ 'what calls left, not to be read', sub { rmdir $taken; overwrite($taken, 'x'); chmod 0, $taken; } ],
);
# What nobody can use until somebody repairs it: the log says what it is, sessions do not notice.
my @unusable = (
	[ 'a journal that cannot be written', sub { unlink $launcher; chmod 0400, $journal; }, sub { chmod 0600, $journal; } ],
	[ 'a directory in its place', sub { unlink $launcher, $journal; mkdir $journal; }, sub { rmdir $journal; } ],
	[ 'a directory that cannot be written', sub { unlink $launcher, $journal; chmod 0500, $directory; }, sub { chmod 0700, $directory; } ],
);
for (@cases, @unusable)
{
	my ($name, $damage, $repair) = @$_;
	$receiver->reset;
	$receiver->answer('/in', { hang => 'request' });
	my @uuids = split /\n/, sql("SELECT (whisperer.deliver_event('{}'::jsonb, 't'))[1] FROM generate_series(1, $events)");
	$receiver->await('/in', 1);
	$node->stop('immediate');
	my $written = slurp_file($journal);
	unlink $taken; # of the last case, who may not read it could not
	($size, $head) = (length $written, substr($written, 0, 8));
	$damage->($written);
	$receiver->answer('/in', { status => 200 });
	$receiver->release;
	my $log = $node->log_position;
	$node->start;
	if ($repair)
	{
		$node->wait_for_log(qr{could not open file "pg_whisperer/$oid\.0\.journal"}, $log);
		is(sql('SELECT 1'), '1', "$name: the log says it, and the server runs");
		$repair->();
	}
	$node->wait_settled;
	my $in = join ', ', map { "'$_'" } @uuids;
	is(sql("SELECT count(*) FROM whisperer.history WHERE state = 'delivered' AND uuid IN ($in)"), $events, "$name: all that was pending is delivered");
	$node->poll_until('postgres', "SELECT count(*) FROM called WHERE uuid IN ($in)", $events);
	ok($name =~ /what calls left/ || !-e $taken, "$name: and called back");
	my %arrived = map { $_->{id} => 1 } $receiver->requests(path => '/in', brief => 1);
	is(scalar(grep { !$arrived{$_} } @uuids), 0, "$name: and has arrived");
	unlike($node->log_since($log), qr/PANIC|terminated by signal|TRAP/, "$name: nothing has crashed");
}
$node->stop;
done_testing();
