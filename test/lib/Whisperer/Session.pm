# A session that stays: run() waits for the answer; start() does not, finish() takes it then. Errors are
# answers, by their SQLSTATE.
package Whisperer::Session;

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $node, $name) = @_;
	my $self = bless { node => $node, name => $name, in => '', out => '' }, $class;
	my @command = ('psql', '-XqAt', '-v', 'VERBOSITY=sqlstate', '-d',
		$node->connstr('postgres') . " application_name=$name");
	$self->{run} = IPC::Run::start(\@command, '<', \$self->{in}, '>', \$self->{out}, '2>&1',
		$self->{timer} = IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
	return $self;
}

sub start
{
	my ($self, $sql) = @_;
	$self->{out} = '';
	$self->{in} .= "$sql;\n\\echo =done\n";
	IPC::Run::pump_nb($self->{run});
	return $self;
}

sub finish
{
	my $self = shift;
	$self->{timer}->start($PostgreSQL::Test::Utils::timeout_default);
	IPC::Run::pump($self->{run}) until $self->{out} =~ /^=done\n/m || $self->{timer}->is_expired;
	my $out = $self->{out};
	die "$self->{name} has no answer: $out" unless $out =~ s/^=done\n//m;
	chomp $out;
	return $out;
}

sub run { my ($self, $sql) = @_; return $self->start($sql)->finish; }

# Until the session waits, for a lock or for deliveries.
sub until_it_waits
{
	my ($self, $event_type) = @_;
	$self->{run}->pump_nb;
	return $self->{node}->poll_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity
		WHERE application_name = '$self->{name}' AND state = 'active' AND wait_event_type = '$event_type'");
}

sub quit { my $self = shift; $self->{in} .= "\\q\n"; $self->{run}->finish; return; }

1;
