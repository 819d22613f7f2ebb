# A network namespace of the test's own, where every address in the world is this machine's, and names are looked up at
# 127.0.0.1: so that a request that should not be made would succeed.
#
#     BEGIN { require Whisperer::Namespace; Whisperer::Namespace::enter('timeout:1 attempts:10'); }
#
# runs the test again inside, under the same user, or skips all of it, with the reason, where user namespaces are not
# allowed. The text says how names are asked for: options of resolv.conf. The outer namespaces map the user to root, to set
# the network up; the inner one has no right at all, and PostgreSQL starts there.
package Whisperer::Namespace;

use strict;
use warnings;

use File::Temp ();
use Test::More ();

my $variable = 'WHISPERER_NAMESPACE';

my $setup = <<'SH';
set -e
ip link set lo up
# Also nobody's may be bound, and every address is local ("AnyIP").
echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
ip route add local 0.0.0.0/0 dev lo
ip -6 route add local ::/0 dev lo
mount --bind "$0/resolv.conf" /etc/resolv.conf
mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf
user=$1 group=$2
shift 2
exec unshare --user --map-user="$user" --map-group="$group" -- "$@"
SH

sub enter
{
	my ($options) = @_;
	return if $ENV{$variable};
	my $directory = File::Temp::tempdir(CLEANUP => 1, DIR => $ENV{TESTDIR});
	_write("$directory/resolv.conf", "nameserver 127.0.0.1\noptions $options\n");
	_write("$directory/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
	my @enter = (qw(unshare --user --map-root-user --net --mount -- sh -c), $setup, $directory);
	my ($group) = split / /, $);
	my $said = join ' ', map { s/\s+/ /gr } _output(@enter, $>, $group, 'true');
	Test::More::plan(skip_all => "no network namespace: $said") if $?;
	$ENV{$variable} = 1;
	exec(@enter, $>, $group, $^X, (map { "-I$_" } @INC), $0, @ARGV) or die "unshare: $!";
}

sub _write
{
	my ($file, $text) = @_;
	open(my $handle, '>', $file) or die "$file: $!";
	print $handle $text;
	close $handle or die "$file: $!";
	return;
}

# What a command said on either output; $? is its exit status.
sub _output
{
	my (@command) = @_;
	my $pid = open(my $lines, '-|') // die "fork: $!";
	if ($pid == 0)
	{
		open(STDERR, '>&', \*STDOUT) or die $!;
		exec(@command) or print "$command[0]: $!" and exit 1;
	}
	my @said = <$lines>;
	close $lines;
	return @said;
}

1;
