# What users do to a ledger's table meanwhile: clients of pgbench at a rate of transactions a second, and a writer that notes what
# was acknowledged. It ends when it is stopped, after so many seconds, or with the server; and tells what its sessions noticed.
#
#     my $load = Whisperer::Load->new($node, 'postgres', prepared => 1);
#     $load->stop;                                     # or end, which waits
#     my ($ids, $noticed) = ($load->acknowledged, $load->noticed);
#
# clients (4), rate (150), seconds; prepared: also two-phase commits; sessions_end: what will be done ends sessions of users, or may;
# otherwise they notice nothing, but errors that match.
package Whisperer::Load;

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils ();

my $number = 0;
my $directory;

# pgbench's transactions: most insert a row; some roll back, some to a savepoint, some are prepared.
sub _scripts
{
	return $directory if $directory;
	my $base = PostgreSQL::Test::Utils::tempdir();
	my $insert = "INSERT INTO ledger (note) VALUES ('bench ' || :load);\n";
	my %scripts = (
		plain => "\\set dice random(1, 10)\nBEGIN;\n$insert\\if :dice = 1\nROLLBACK;\n"
		  . "\\elif :dice = 2\nSAVEPOINT s;\n${insert}ROLLBACK TO SAVEPOINT s;\n${insert}COMMIT;\n"
		  . "\\elif :dice = 3\nSAVEPOINT s;\n${insert}RELEASE SAVEPOINT s;\n${insert}COMMIT;\n\\else\nCOMMIT;\n\\endif\n",
		prepared => "\\set number random(1, 1000000000000)\n\\set dice random(1, 3)\nBEGIN;\n${insert}SAVEPOINT s;\n${insert}"
		  . "PREPARE TRANSACTION 'ledger :number';\n\\if :dice = 1\nROLLBACK PREPARED 'ledger :number';\n"
		  . "\\else\nCOMMIT PREPARED 'ledger :number';\n\\endif\n",
		# psql prints an id when the commit has been acknowledged. For longer than any load.
		writer => "INSERT INTO ledger (note) VALUES ('writer ' || :load) RETURNING id; SELECT FROM pg_sleep(0.02);\n" x 40_000);
	PostgreSQL::Test::Utils::append_to_file("$base/$_.sql", $scripts{$_}) for keys %scripts;
	return $directory = $base;
}

sub new
{
	my ($class, $node, $database, %options) = @_;
	my $self = bless { clients => 4, %options, number => ++$number, name => "ledger $number" }, $class;
	my $connection = $node->connstr($database) . " application_name='$self->{name}'";
	my $base = _scripts();
	my @files = map { ('-f', "$base/$_") } $options{prepared} ? ('plain.sql@3', 'prepared.sql@1') : 'plain.sql';
	my $seconds = $options{seconds} // 600;
	my %commands = (
		pgbench => [ 'pgbench', '-n', '--verbose-errors', '-D', "load=$number", '-c', $self->{clients}, '-j', 2, '-T', $seconds,
			'-R', $options{rate} // 150, @files, $connection ],
		writer => [ 'timeout', $seconds, 'psql', '-qAtX', '-v', 'ON_ERROR_STOP=1', '-v', "load=$number", '-f', "$base/writer.sql", $connection ]);
	for my $who (qw(pgbench writer))
	{
		my $said = $self->{said}{$who} = { output => '', errors => '' };
		# None reads the terminal.
		$self->{$who} = IPC::Run::start($commands{$who}, '<', \undef, '>', \$said->{output}, '2>', \$said->{errors});
	}
	return $self;
}

# How many sessions it has, and their application_name.
sub sessions { my $self = shift; return $self->{clients} + 1; }
sub name { my $self = shift; return $self->{name}; }

# Of its rows (a condition): that there are some, and at least one of them acknowledged, as the writer waits for that before the next.
sub has_written
{
	my $self = shift;
	my $wrote = sub { my ($who, $least) = @_; return "count(*) FILTER (WHERE note = '$who $self->{number}') >= $least"; };
	return join ' AND ', $wrote->('bench', 10), $wrote->('writer', 2);
}

# Whether pgbench and the writer both go on.
sub goes_on
{
	my $self = shift;
	$_->pump_nb for grep { $_->pumpable } @$self{qw(pgbench writer)};
	return 2 == grep { $_->pumpable } @$self{qw(pgbench writer)};
}

sub stop
{
	my $self = shift;
	$self->{stopped} = 1;
	$_->signal('TERM') for @$self{qw(pgbench writer)};
	return $self->end;
}

# Waits for its end.
sub end { my $self = shift; $_->finish for @$self{qw(pgbench writer)}; return; }

# Ids whose commit was acknowledged, when it has ended. What the writer's connection took with it is in doubt.
sub acknowledged { my $self = shift; return [ $self->{said}{writer}{output} =~ /^(\d+)\n/mg ]; }

# What its sessions noticed, when it has ended: errors, and an end that is not its own.
sub noticed
{
	my $self = shift;
	# "timeout" says 124 when it has ended the writer, and ends as that one did when it is stopped itself.
	my @ends = (0, $self->{stopped} ? 15 : ());
	my %ends = (pgbench => \@ends, writer => [ @ends, 124 << 8 ]);
	my $expected = $self->{errors} // qr/(?!)/;
	my @noticed;
	for my $who (qw(pgbench writer))
	{
		my $status = $self->{$who}->full_result(0);
		my $said = $self->{said}{$who}{errors};
		my @errors = grep { !/^(?:DETAIL|HINT|CONTEXT|LINE|QUERY|Process \d|\s|$)/ && !/$expected/ } split /\n/, $said;
		# What is said of connections that break is no news then.
		@errors = grep { /ERROR:/ } @errors if $self->{sessions_end};
		push @errors, "ended with status $status"
		  unless $self->{sessions_end} || $said =~ $expected || grep { $status == $_ } @{ $ends{$who} };
		push @noticed, map { "$who: $_" } @errors;
	}
	return \@noticed;
}

1;
