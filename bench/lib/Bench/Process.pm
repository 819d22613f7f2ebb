# What the kernel says of the server's processes.
package Bench::Process;

use strict;
use warnings;

use Exporter qw(import);
use POSIX ();

use Bench qw(run_tool);

our @EXPORT_OK = qw(private_memory processor_seconds context_switches cores);

sub _slurp
{
	my $path = shift;
	open(my $file, '<', $path) or return undef;
	local $/;
	return scalar <$file>;
}

# MB that are this process's alone. smaps_rollup would not do: it calls pages of PostgreSQL's shared memory private that no other
# process has touched yet. So only private mappings (the fourth letter of their permissions) are counted.
sub private_memory
{
	my $pid = shift;
	my $text = _slurp("/proc/$pid/smaps") // die "/proc/$pid/smaps: $!\n";
	my ($private, $kilobytes) = (0, 0);
	for my $line (split /\n/, $text)
	{
		if ($line =~ /^[0-9a-f]+-[0-9a-f]+ ...([ps]) /) { $private = $1 eq 'p'; }
		elsif ($private && $line =~ /^Private_(?:Clean|Dirty|Hugetlb): +(\d+) kB/) { $kilobytes += $1; }
	}
	die "no private memory in /proc/$pid/smaps\n" unless $kilobytes;
	return $kilobytes / 1024;
}

# Processor time of the postmaster and all its children, of those that ended too: it has waited for them.
sub processor_seconds
{
	my $postmaster = shift;
	my $ticks = 0;
	my $seen = 0;
	for my $path (glob '/proc/[0-9]*/stat')
	{
		my $text = _slurp($path) // next;    # ended meanwhile
		my ($pid, $rest) = $text =~ /^(\d+) \(.*\) \S (.*)/s or next;
		my ($parent, @fields) = split ' ', $rest;
		# @fields begins with field 5, pgrp: utime, stime, cutime, cstime are 14 to 17.
		my ($user, $system, $ended_user, $ended_system) = @fields[ 9 .. 12 ];
		$ticks += $user + $system if $parent == $postmaster || $pid == $postmaster;
		$ticks += $ended_user + $ended_system if $pid == $postmaster;
		$seen ||= $pid == $postmaster;
	}
	die "no process $postmaster\n" unless $seen;
	return $ticks / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Of these processes, by pid.
sub context_switches
{
	my %switches;
	for my $pid (@_)
	{
		my $text = _slurp("/proc/$pid/status") // die "/proc/$pid/status: $!\n";
		$switches{$pid} += $1 while $text =~ /ctxt_switches:\s+(\d+)/g;
		die "process $pid never slept\n" unless $switches{$pid};
	}
	return \%switches;
}

sub cores { return scalar run_tool('nproc'); }

1;
