# Every SQL example of README.md and docs/ does what the document says.  See Whisperer::Documents for how
# the documents tell the test what to expect.
use strict;
use warnings;
use utf8;

use Encode qw(decode_utf8 encode_utf8);
use IPC::Run qw(run);
use JSON::XS ();
use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Documents;
use Whisperer::Node;
use Whisperer::Receiver;

my $json = JSON::XS->new->ascii;
my $receiver = Whisperer::Receiver->new;
my $base = $receiver->url('');
my $node = Whisperer::Node->new('docs');
$node->init;
$node->start;

# One psql for each block: (output and errors as a person sees them, SQLSTATE or undef).
sub psql
{
	my ($database, $sql) = @_;
	my ($out, $exit) = ('');
	run [ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never',
		'-P', 'footer=off', '-d', $node->connstr($database), '-f', '-' ],
	  '<', \encode_utf8($sql), '>', \$out, '2>', \my $err;
	$out = decode_utf8($out);
	$err = decode_utf8($err);
	my $failed = $? != 0;
	my ($state) = $err =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5}):/;
	$err =~ s/^psql:<stdin>:\d+: //mg;
	$err =~ s/^((?:ERROR|FATAL|WARNING|NOTICE):\s+)[0-9A-Z]{5}: /$1/mg;
	$err =~ s/^(?:LOCATION|LINE \d+|CONTEXT|QUERY):.*\n//mg;
	$err =~ s/^ *\^ *\n//mg;
	return ($out . $err, $failed ? $state // 'unknown' : undef);
}

sub run_block
{
	my ($database, $where, $part) = @_;
	my $announced = Whisperer::Documents::announced($part->{text});
	my ($output, $state) = psql($database, Whisperer::Documents::localised($part->{text}, $base));
	is($state, $announced, $where . (defined $announced ? " fails with $announced" : '')) or diag(encode_utf8($output));
	return $output;
}

# What each language needs around a block so that it prints, for each request (a line of JSON), whether it
# accepts it, and whether it accepts it with another body and at another time.
my %around = (
	python => {
		command => [ 'python3', '-' ],
		after => q{
import json, sys
for secret, headers, body in json.load(open(sys.argv[1])):
    body, other = body.encode(), b"x" + body.encode()
    late = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1000)}
    print(verify(secret, headers, body), verify_body(secret, headers, body), verify(secret, headers, other),
          verify_body(secret, headers, other), verify(secret, late, body))
},
		accepted => 'True True False False False',
	},
	javascript => {
		command => [ 'node', '--input-type=module', '-' ],
		after => q{
import { readFileSync } from 'node:fs';
for (const [secret, headers, text] of JSON.parse(readFileSync(process.argv.at(-1), 'utf8'))) {
  const body = Buffer.from(text), other = Buffer.from('x' + text);
  const late = { ...headers, 'webhook-timestamp': String(headers['webhook-timestamp'] - 1000) };
  console.log(verify(secret, headers, body), verifyBody(secret, headers, body), verify(secret, headers, other),
    verifyBody(secret, headers, other), verify(secret, late, body));
}
},
		accepted => 'true true false false false',
	});

sub verify
{
	my ($where, $part, $verifies) = @_;
	my ($path, $secret) = $verifies =~ /^(\S+) (.*)$/;
	my $around = $around{ $part->{kind} } or die "$where: no way to run $part->{kind}\n";
  SKIP:
	{
		skip "$where: $around->{command}[0] is not installed", 1
		  unless run [ $around->{command}[0], '--version' ], '>', \my $version, '2>', \my $trouble;
		my @requests = $receiver->await($path, 1);
		my $file = "$ENV{TESTDIR}/requests.json";
		append_to_file($file, $json->encode([ map { [ $secret, $_->{header}, decode_utf8($_->{body}) ] } @requests ]));
		run [ @{ $around->{command} }, $file ], '<', \encode_utf8($part->{text} . $around->{after}), '>', \my $out, '2>', \my $err;
		unlink $file;
		is($out, "$around->{accepted}\n" x @requests, "$where accepts what is genuine, and nothing else") or diag($err);
	}
	return;
}

# Whether a block with this behind ```sql is run here.
sub runs
{
	my ($where, $database, $info) = @_;
	return 1 if $info eq '';
	return 0 if $info eq 'shown';
	my ($function) = $info =~ /^with=(\w+)$/ or die "$where: ```sql $info\n";
	return 1 if $node->safe_psql($database, "SELECT to_regproc('whisperer.$function') IS NOT NULL") eq 't';
	diag("$where: not run, there is no whisperer.$function() yet");
	return 0;
}

sub wait_for
{
	my ($where, $database, $query) = @_;
	ok(eval { $node->poll_until($database, $query) }, "$where: $query") or diag($@);
	return;
}

sub run_document
{
	my ($file, $database) = @_;
	my @parts = Whisperer::Documents::parts($file);
	return unless grep { $_->{kind} eq 'sql' } @parts;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	# A document that begins with CREATE EXTENSION shows that itself.
	$node->create_whisperer($database)
	  unless grep { $_->{kind} eq 'sql' && $_->{text} =~ /^CREATE EXTENSION whisperer/m } @parts;

	my ($output, $before, $verifies) = (undef, '');
	for my $part (@parts)
	{
		my $where = "$file:$part->{line}";
		if ($part->{kind} eq 'verifies') { $verifies = $part->{text}; }
		elsif ($part->{kind} eq 'sql' && !runs($where, $database, $part->{info})) { undef $output; }
		elsif ($part->{kind} eq 'sql') { $output = run_block($database, $where, $part); }
		elsif ($part->{kind} eq 'text' && $before eq 'sql' && defined $output)
		{
			ok(Whisperer::Documents::same($output, $part->{text}, $base), "$where: the output") or diag(encode_utf8($output));
		}
		elsif ($part->{kind} eq 'receiver')
		{
			my ($path, @steps) = Whisperer::Documents::receiver_rule($part->{text}, $json);
			$receiver->behave(path => $path, steps => \@steps, per => 'webhook-id');
		}
		elsif ($before eq 'verifies') { verify($where, $part, $verifies); }
		elsif ($part->{kind} eq 'until') { wait_for($where, $database, $part->{text}); }
		$before = $part->{kind};
	}

	# The next document finds the server as this one did.
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	$node->safe_psql('postgres', "DROP DATABASE $database");
	my @roles = split /\n/, $node->safe_psql('postgres',
		q{SELECT quote_ident(rolname) FROM pg_roles WHERE rolname NOT LIKE 'pg\_%' AND rolname <> 'postgres'});
	$node->safe_psql('postgres', 'DROP ROLE ' . join ', ', @roles) if @roles;
	$receiver->reset;
	return;
}

my $number = 0;
my @files = @ARGV ? @ARGV : ('README.md', sort glob 'docs/*.md');
run_document($_, 'document_' . ++$number) for @files;
cmp_ok($number, '>=', 1, 'there are documents');

$receiver->stop;
$node->stop;
done_testing();
