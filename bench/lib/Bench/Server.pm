# A private server for a scenario: PostgreSQL's default durability, the memory of a small production server, and whisperer's
# defaults. docs/performance.md states these settings.
package Bench::Server;

use strict;
use warnings;

use parent 'Whisperer::Node';

use Bench qw(now wait_for);
use Bench::Database;
use Bench::Session;

# start(settings => lines for postgresql.conf, name => of the server)
sub start_fresh
{
	my ($class, %options) = @_;
	my $name = $options{name} // 'bench';
	my $self = $class->new($name);
	# What PostgreSQL's test module sets to be quick is set back to its default.
	$self->init(settings => <<"CONF");
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
max_wal_senders = 10
autovacuum = on
log_min_messages = warning
shared_buffers = 512MB
max_wal_size = 4GB
min_wal_size = 2GB
checkpoint_timeout = 30min
max_connections = 100
${\($options{settings} // '')}
CONF
	$self->defaults;
	$self->start;
	return $self;
}

# A database with the extension; "postgres" is there already.
sub database
{
	my ($self, $name) = @_;
	$name //= 'postgres';
	$self->safe_psql('postgres', "CREATE DATABASE $name") unless $name eq 'postgres';
	$self->create_whisperer($name);
	$self->delivery_pids($name);
	return Bench::Database->new($self, $name);
}

sub session
{
	my ($self, $name) = @_;
	return Bench::Session->new($self->installed_command('psql'), $self->connstr($name));
}

# Settings of the whole server: value undef is the default. Returns when the postmaster was told.
sub set
{
	my ($self, %settings) = @_;
	my $session = $self->{settings_session} //= $self->session('postgres');
	for my $name (sort keys %settings)
	{
		my $value = $settings{$name};
		$session->query(defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	}
	$session->query('SELECT pg_reload_conf()');
	return;
}

sub setting
{
	my ($self, $name) = @_;
	return $self->safe_psql('postgres', "SHOW $name");
}

# Sending off: events are taken in and nothing is sent. Returns when every delivery worker knows.
sub sending_off
{
	my $self = shift;
	$self->set('whisperer.enabled' => 'off');
	my $session = $self->{settings_session};
	wait_for('sending to be off', 60, sub {
		return $session->query(
			q{SELECT bool_and(state = 'disabled') FROM whisperer.workers WHERE kind = 'delivery'}) eq 't';
	});
	return;
}

# With other settings at the same moment.
sub sending_on { my ($self, %settings) = @_; $self->set(%settings, 'whisperer.enabled' => undef); return; }

sub restart_fast
{
	my $self = shift;
	$self->forget_sessions;
	$self->stop('fast');
	my $begin = now();
	$self->start;
	return $begin;
}

sub forget_sessions
{
	my $self = shift;
	(delete $self->{settings_session})->close if $self->{settings_session};
	return;
}

sub postmaster { my $self = shift; return $self->{_pid}; }

1;
