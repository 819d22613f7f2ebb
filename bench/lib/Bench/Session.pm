# A session that stays: psql at the other end of two pipes. A query costs a fraction of a millisecond beside its own time.
package Bench::Session;

use strict;
use warnings;

use IPC::Open2 qw(open2);

sub new
{
	my ($class, $psql, $connection) = @_;
	my $pid = open2(my $out, my $in, $psql, '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $connection);
	return bless { pid => $pid, in => $in, out => $out, owner => $$ }, $class;
}

# The statement's rows as psql prints them, joined by line ends. What psql says of an error goes to the log; we die.
sub query
{
	my ($self, $sql) = @_;
	$self->start_query($sql);
	return $self->finish_query;
}

# The same in two halves, for a statement that is to run while something else is done.
sub start_query
{
	my ($self, $sql) = @_;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$sql\n;\n\\echo end-of-answer\n";
	$self->{in}->flush;
	$self->{sql} = $sql;
	return;
}

sub finish_query
{
	my $self = shift;
	my @lines;
	while (defined(my $line = readline $self->{out}))
	{
		chomp $line;
		return join "\n", @lines if $line eq 'end-of-answer';
		push @lines, $line;
	}
	die "failed (see the scenario's log): $self->{sql}\n";
}

sub close
{
	my $self = shift;
	my $pid = delete $self->{pid} or return;
	local $?;
	close $self->{in};
	close $self->{out};
	waitpid $pid, 0;
	return;
}

sub DESTROY { my $self = shift; $self->close if $self->{owner} == $$; return; }

1;
