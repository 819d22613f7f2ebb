# What a process holds, from /proc.
package Whisperer::Processes;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(private_memory open_files);

# Megabytes of its own, nothing when the process has gone. Not what smaps calls private: that counts pages of shared memory
# that no other process has looked at yet.
sub private_memory
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/smaps_rollup") or return;
	my ($kilobytes) = join('', <$file>) =~ /^Anonymous:\s+(\d+) kB/m or return;
	return $kilobytes / 1024;
}

# How many files, sockets and the like are open.
sub open_files
{
	my ($pid) = @_;
	opendir(my $directory, "/proc/$pid/fd") or return;
	my @open = grep { /^\d+$/ } readdir $directory;
	return scalar @open;
}

1;
