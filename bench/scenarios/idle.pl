# What whisperer does when there is nothing to do: context switches, voluntary and not, of all its processes in a minute. As many
# servers as there are runs are idle at the same time. IDLE_SECONDS (60)
use strict;
use warnings;

use Bench qw(size runs record say_progress wait_for now);
use Bench::Process qw(context_switches);

my $settle = 15;    # seconds after which maintenance, which begins ten seconds after the start, has come and gone

sub processes
{
	my $database = shift;
	return split /\n/, $database->sql('SELECT pid FROM whisperer.workers WHERE pid IS NOT NULL ORDER BY pid');
}

return {
	figures => [
		{ name => 'switches', label => 'context switches of all processes in 60 s', digits => 0, target => 60, aim => 12, less => 1 },
		{ name => 'processes', label => 'processes', digits => 0 },
	],
	run => sub {
		my $seconds = size('IDLE_SECONDS', 60);
		my $nginx = Bench::Nginx->new;
		my @databases;
		for my $run (1 .. runs())
		{
			my $server = Bench::Server->start_fresh(name => "idle$run");
			my $database = $server->database;
			$database->subscribe('t', $nginx->url("/$run"));
			$database->sql(q{SELECT whisperer.deliver_event('{"a": 1}', 't')});
			$server->wait_settled('postgres', 60);
			$database->verify(1);
			push @databases, $database;
		}
		Time::HiRes::sleep($settle);
		my (@pids, @before);
		for my $database (@databases)
		{
			push @pids, [ processes($database) ];
			push @before, context_switches(@{ $pids[-1] });
		}
		my $begin = now();
		Time::HiRes::sleep($seconds);
		my @after = map { context_switches(@$_) } @pids;
		my $passed = now() - $begin;
		for my $run (1 .. runs())
		{
			my @now = processes($databases[ $run - 1 ]);
			my $pids = $pids[ $run - 1 ];
			die "the processes changed: @$pids, then @now\n" if "@now" ne "@$pids";
			my $switches = 0;
			$switches += $after[ $run - 1 ]{$_} - $before[ $run - 1 ]{$_} for @$pids;
			record($run, 'switches', $switches * 60 / $passed);
			record($run, 'processes', scalar @$pids);
		}
		$_->{server}->stop for @databases;
	},
};
