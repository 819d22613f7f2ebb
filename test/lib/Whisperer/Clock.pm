# A server's wall clock, and only it, that jumps (test/clock/shifted_clock.c says how).
#
#     my $clock = Whisperer::Clock->new;
#     $clock->preloaded(sub { $node->start });
#     $clock->set(1);                    # a day ahead of everybody else's
package Whisperer::Clock;

use strict;
use warnings;

use File::Spec;
use FindBin;
use PostgreSQL::Test::Utils ();

sub new
{
	my ($class) = @_;
	my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
	my $self = bless { library => "$directory/shifted_clock.so", shift => "$directory/shift" }, $class;
	system('cc', '-O2', '-shared', '-fPIC', '-o', $self->{library}, "$FindBin::RealBin/../clock/shifted_clock.c") == 0
	  or die "the clock cannot be built\n";
	$self->set(0);
	return $self;
}

# Runs what starts a server.
sub preloaded
{
	my ($self, $start) = @_;
	local $ENV{LD_PRELOAD} = $self->{library};
	local $ENV{SHIFTED_CLOCK} = $self->{shift};
	return $start->();
}

# So many days ahead.
sub set
{
	my ($self, $days) = @_;
	# In place: it is mapped.
	open(my $file, -e $self->{shift} ? '+<' : '>', $self->{shift}) or die "$self->{shift}: $!";
	syswrite($file, pack('q', $days * 86400)) == 8 or die "$self->{shift}: $!";
	close $file or die "$self->{shift}: $!";
	return;
}

1;
