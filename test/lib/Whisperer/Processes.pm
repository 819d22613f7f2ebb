# What a process holds: from /proc, and from the server's own views.
package Whisperer::Processes;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(private_memory open_files looks_at);

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

# Looks at whisperer's processes so often, a moment apart. By their name: how many looks there were, in how many of them requests were
# in flight, and in how many there was a transaction, an xid, a snapshot or a lock of any kind. What there is to record or to save takes
# a short transaction: a few looks may see one.
sub looks_at
{
	my ($node, $looks) = @_;
	my %seen;
	for my $line (split /\n/, $node->safe_psql('postgres', qq{
		CREATE TEMPORARY TABLE look (name text, busy boolean, held boolean);
		DO \$\$ BEGIN
			FOR n IN 1 .. $looks LOOP
				PERFORM pg_stat_clear_snapshot();
				INSERT INTO look SELECT backend_type, coalesce(w.in_flight, 0) > 0, xact_start IS NOT NULL OR backend_xid IS NOT NULL
						OR backend_xmin IS NOT NULL OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid)
					FROM pg_stat_activity a LEFT JOIN whisperer.workers w USING (pid) WHERE backend_type LIKE 'whisperer %';
				PERFORM pg_sleep(0.01);
			END LOOP;
		END \$\$;
		SELECT name, count(*), count(*) FILTER (WHERE busy), count(*) FILTER (WHERE held) FROM look GROUP BY name}))
	{
		my ($name, @counts) = split /\|/, $line;
		$seen{$name} = { map { $_ => shift @counts } qw(looks busy held) };
	}
	return \%seen;
}

1;
