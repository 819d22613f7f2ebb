# Faults inside a server, at places that a test cannot reach from outside (test/fault/fault.c says how).
#
#     my $fault = Whisperer::Fault->new;
#     my $node = Whisperer::Node->new('main');
#     $node->init(settings => $Whisperer::Fault::settings);
#     $fault->preloaded(sub { $node->start });
#     $fault->arm('after the sync', 'server', commits => 3);   # of a commit of the delivery worker
#     my ($strike) = $fault->await(1);                         # { at => …, xid => … }
#     $fault->arm('sends', 'abort', mark => 'POST /poison ');  # stays until disarm
package Whisperer::Fault;

use strict;
use warnings;

use File::Spec;
use FindBin;
use PostgreSQL::Test::Utils ();
use Whisperer::Node;

# For postgresql.conf: the server syncs, and the library knows how.
our $settings = "fsync = on\nwal_sync_method = fdatasync\n";

# As in fault.c. In the order in which a commit comes by; and what a thread does that sends.
our @commit_points = ('before the write', 'in the middle of the write', 'after the write', 'after the sync', 'while its results leave');
our @sending_points = ('connects', 'sends', 'receives');
my $number = 0;
my %points = map { $_ => ++$number } @commit_points, @sending_points;
my %means = (server => 0, worker => 1, segv => 2, abort => 3);
my $head = 'L L l l a48';
my $most_strikes = 64;
my $body = "L L d$most_strikes";

sub new
{
	my ($class) = @_;
	my $directory = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
	my $self = bless { library => "$directory/fault.so", plan => "$directory/plan" }, $class;
	system('cc', '-O2', '-shared', '-fPIC', '-o', $self->{library}, "$FindBin::RealBin/../fault/fault.c") == 0
	  or die "the faults cannot be built\n";
	open(my $file, '>', $self->{plan}) or die "$self->{plan}: $!";
	print $file "\0" x length pack("$head $body", (0) x 4, '', (0) x (2 + $most_strikes));
	close $file or die "$self->{plan}: $!";
	return $self;
}

# Runs what starts a server.
sub preloaded
{
	my ($self, $start) = @_;
	local $ENV{LD_PRELOAD} = $self->{library};
	local $ENV{FAULT_PLAN} = $self->{plan};
	return $start->();
}

# In place: it is mapped.
sub _write
{
	my ($self, $offset, $bytes) = @_;
	open(my $file, '+<', $self->{plan}) or die "$self->{plan}: $!";
	sysseek($file, $offset, 0);
	syswrite($file, $bytes) == length $bytes or die "$self->{plan}: $!";
	close $file;
	return;
}

sub disarm { my ($self) = @_; $self->_write(0, pack 'L', 0); return; }

# The next time that a delivery worker comes by. commits: so many go well before; locks: so many times its results are looked at
# before; mark: what the bytes hold, or the port.
sub arm
{
	my ($self, $point, $means, %options) = @_;
	my $number = $points{$point} // die "no point \"$point\"";
	my $plan = pack($head, 0, $means{$means} // die("no means \"$means\""), $options{commits} // 0, $options{locks} // 0,
		$options{mark} // '');
	$self->disarm;
	$self->_write(4, substr($plan, 4) . pack($body, (0) x (2 + $most_strikes)));
	$self->_write(0, pack 'L', $number);
	return;
}

# Where and when it has struck since it was armed.
sub strikes
{
	my ($self) = @_;
	my ($count, $xid, @at) = unpack($body, substr(PostgreSQL::Test::Utils::slurp_file($self->{plan}), length pack($head, (0) x 4, '')));
	return map { { xid => $xid, at => $_ } } @at[ 0 .. $count - 1 ];
}

# The same, once there are so many.
sub await
{
	my ($self, $least) = @_;
	my @strikes;
	Whisperer::Node->await(sub { (@strikes = $self->strikes) >= $least }, "$least strikes");
	return @strikes;
}

1;
