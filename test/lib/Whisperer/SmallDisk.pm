# A disk that can be filled: a small tmpfs, in a mount namespace of the test's own.
#
#     my $disk;
#     BEGIN { require Whisperer::SmallDisk; $disk = Whisperer::SmallDisk::mounted('160m') }
#
# Gives the directory. Once in the namespace the test is run anew, as the user it was; where no file system can be mounted it is
# skipped, and says why.
package Whisperer::SmallDisk;

use strict;
use warnings;

use FindBin;
use Test::More;

sub mounted
{
	my ($size) = @_;
	my $disk = "$ENV{TESTDIR}/disk";
	return $disk if $ENV{WHISPERER_DISK};
	mkdir $disk;
	my ($user, $group) = ($>, $) + 0);
	my $inner = "mount -t tmpfs -o size=$size tmpfs " . '"$1" && shift && exec unshare --user --map-user=' . $user
	  . " --map-group=$group -- \"\$@\"";
	my @enter = ('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', $inner, 'sh', $disk);
	my $why = qx(@{[join ' ', map { quotemeta } @enter]} true 2>&1);
	plan(skip_all => "no small file system can be mounted here: $why") if $? != 0;
	$ENV{WHISPERER_DISK} = 1;
	exec(@enter, $^X, "$FindBin::RealBin/$FindBin::RealScript") or die "unshare: $!";
}

1;
