# A private PostgreSQL server with whisperer preloaded: PostgreSQL::Test::Cluster and what our tests
# need beside it.
package Whisperer::Node;

use strict;
use warnings;

use parent 'PostgreSQL::Test::Cluster';
# Imports nothing: its functions would take the place of the inherited methods of the same name.
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(time usleep);

# A server that is made, configured and started, with the extension in database postgres.
#     started('main', settings => "max_worker_processes = 64")
sub started
{
	my ($class, $name, %options) = @_;
	my $self = $class->new($name);
	$self->init(%options);
	$self->start;
	$self->create_whisperer('postgres');
	return $self;
}

# What every server has that says nothing else. The safety scan comes too late to help, so that a wake that is lost makes a test
# fail, and not only take a minute longer. And a receiver or a callback without a processor for seconds is not what is tested.
my %ours = (safety_scan_interval => '1h', request_timeout => '60', callback_timeout => '60s');

# Instead of these, or some of them, what users have.
sub defaults
{
	my ($self, @which) = @_;
	$self->adjust_conf('postgresql.conf', "whisperer.$_", undef) for @which ? @which : sort keys %ours;
	return;
}

# init's own options, and: settings (lines for postgresql.conf); encoding and locale of the cluster.
sub init
{
	my ($self, %options) = @_;
	my $settings = delete $options{settings} // '';
	my $encoding = delete $options{encoding} // 'UTF8';

	my $ours = join "\n", map { "whisperer.$_ = '$ours{$_}'" } sort keys %ours;

	# The same names and order everywhere: neither the operating system's user nor its locale.
	push @{ $options{extra} }, '-U', 'postgres', '--no-locale', '-E', $encoding;
	$ENV{PGUSER} = 'postgres';
	$self->SUPER::init(%options);
	$self->append_conf('postgresql.conf', <<"CONF");
log_statement = none
log_min_messages = info
max_worker_processes = 32
max_prepared_transactions = 10
shared_preload_libraries = 'whisperer'
whisperer.allowed_networks = '127.0.0.0/8, ::1/128'
$ours
$settings
CONF
	return;
}

sub create_whisperer
{
	my ($self, $database) = @_;
	$self->safe_psql($database, 'CREATE EXTENSION whisperer');
	return;
}

# Does what gives psql its input. Where the server takes no connection psql may have gone before it could be told what to do: then
# nothing was done, and what psql has to say was lost.
sub _told
{
	my ($self, $tell) = @_;
	my @result;
	$self->await(sub {
		return 1 if eval { @result = $tell->(); 1 };
		die $@ if $@ !~ /^(?:ack )?Broken pipe: write\(/;
		return 0;
	}, 'psql, to take its input');
	return @result;
}

# As PostgreSQL::Test::Cluster's, and told again.
sub psql
{
	my ($self, $database, $statements, %options) = @_;
	my $list = wantarray; # without it, nothing that is not asked for is captured
	# It takes the first part of more than a pipe holds, at the least, and may have done that.
	my $once = do { use bytes; length($statements // '') > 4096 };
	my $tell = sub { return $list ? $self->SUPER::psql($database, $statements, %options) : scalar $self->SUPER::psql($database, $statements, %options) };
	my @result = $once ? $tell->() : $self->_told($tell);
	return $list ? @result : $result[0];
}

sub poll_query_until
{
	my ($self, @arguments) = @_;
	my ($answered) = $self->_told(sub { return $self->SUPER::poll_query_until(@arguments) });
	return $answered;
}

# whisperer.wait_until_settled, and dies unless it became so.
sub wait_settled
{
	my ($self, $database, $seconds) = @_;
	$database //= 'postgres';
	$seconds //= $PostgreSQL::Test::Utils::timeout_default;
	my $settled = $self->safe_psql($database, "SELECT whisperer.wait_until_settled('$seconds s')");
	return if $settled eq 't';
	die "not settled after $seconds s:\n"
	  . $self->safe_psql($database, 'TABLE whisperer.subscription_health') . "\n"
	  . $self->safe_psql($database, 'TABLE whisperer.workers');
}

# As PostgreSQL::Test::Cluster's, but each answer has the time-out, and so has the end: not all that a test does while the session
# is there.
sub background_psql
{
	my ($self, @arguments) = @_;
	my $session = $self->SUPER::background_psql(@arguments);
	$session->set_query_timer_restart;
	return bless $session, 'Whisperer::Node::BackgroundPsql';
}

# Between two looks, microseconds. Most look in a session of their own, and under valgrind that costs a second of a processor.
my $between = $ENV{WHISPERER_POSTGRES} ? 1_000_000 : 20_000;

# Until the look answers something true. Dies when it does not in time, with what was waited for: a text, or a sub that has it.
sub await
{
	my ($self, $look, $what, $seconds) = @_;
	$seconds //= $PostgreSQL::Test::Utils::timeout_default;
	my $end = time() + $seconds;
	until ($look->())
	{
		die "waited $seconds s for " . (ref $what ? $what->() : $what) . "\n" if time() > $end;
		usleep($between);
	}
	return 1;
}

# Until the query answers the text: dies with the last answer when it does not, and at an error of the query itself. That no
# connection is to be had is no answer yet; that one is lost, is an error.
sub poll_until
{
	my ($self, $database, $query, $expected, $seconds) = @_;
	$expected //= 't';
	my $answer;
	return $self->await(sub {
		(my $code, $answer, my $errors) = $self->psql($database, $query);
		return $answer eq $expected if $code == 0;
		die "$query: $errors" unless $code == 2 && $errors =~ /^psql: error: /;
		$answer = $errors;
		return 0;
	}, sub { "\"$expected\" from: $query\nlast answer: $answer" }, $seconds);
}

# Until no session of a user, as one that has just ended, is left in a database: PostgreSQL itself waits five seconds for them before
# it drops or renames one, or copies it.
sub await_alone
{
	my ($self, $database) = @_;
	return $self->poll_until($database eq 'postgres' ? 'template1' : 'postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'client backend'", '0');
}

# Until the server's clock has gone on for so long: where the time itself is what is tested.
sub let_pass
{
	my ($self, $seconds) = @_;
	my $from = $self->safe_psql('postgres', 'SELECT clock_timestamp()');
	return $self->poll_until('postgres', "SELECT clock_timestamp() > '$from'::timestamptz + interval '$seconds s'");
}

# The delivery workers' process ids in a database, once there are as many as asked for (1), at work: a process may have been registered
# that has no journal yet. Counted in the same look: they may be about to give way to others.
sub delivery_pids
{
	my ($self, $database, $count) = @_;
	$count //= 1;
	my $pids = "SELECT pid FROM whisperer.workers WHERE kind = 'delivery' AND database = '$database' AND pid IS NOT NULL
		AND state <> 'starting' ORDER BY pid";
	my @pids;
	$self->await(sub { (@pids = split /\n/, $self->safe_psql($database, $pids)) == $count },
		sub { "$count delivery workers of database \"$database\", and there are: @pids" });
	return @pids;
}

# Where the log is now, and what was written to it since.
sub log_position { my $self = shift; return -s $self->logfile; }

sub log_since
{
	my ($self, $position) = @_;
	return PostgreSQL::Test::Utils::slurp_file($self->logfile, $position);
}

# Waits until a server that restarts itself takes connections; one that gave up is started.
sub wait_back
{
	my $self = shift;
	my @ready = ('pg_isready', '-q', '-h', $self->host, '-p', $self->port);
	$self->await(sub {
		return 1 if system(@ready) == 0;
		return 0 if -e $self->data_dir . '/postmaster.pid';
		$self->_update_pid(0);
		$self->start;
		return 0;
	}, 'the server, to be back');
	return;
}

# Waits until a server that gives up has gone. Until its postmaster has noticed, it seems to be there.
sub await_end
{
	my $self = shift;
	$self->await(sub { !-e $self->data_dir . '/postmaster.pid' }, 'the end of the server');
	return;
}

# Starts one that is about to go. The launcher knows nothing of earlier crashes: it would wait longer after each.
sub start_again
{
	my $self = shift;
	$self->await_end;
	unlink $self->data_dir . '/pg_whisperer/launcher';
	return $self->wait_back;
}

# Starts a server whose processes were all killed, as soon as they have gone.
sub start_killed
{
	my $self = shift;
	my $pid = $self->{_pid};
	$self->await(sub {
		return 0 if kill 0, $pid;
		$self->{_pid} = undef;
		return $self->start(fail_ok => 1);
	}, 'the killed server, to start');
	return;
}

# Pulls the plug: an immediate shutdown, as after a crash, and a start.
sub crash_and_start
{
	my $self = shift;
	$self->stop('immediate');
	$self->start;
	return;
}

package Whisperer::Node::BackgroundPsql;

our @ISA = ('PostgreSQL::Test::BackgroundPsql');

sub quit
{
	my $self = shift;
	$self->{timeout}->start;
	return $self->SUPER::quit;
}

1;
