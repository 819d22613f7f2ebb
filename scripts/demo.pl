# The story that "make demo" tells; scripts/demo starts the server and runs this.
use strict;
use warnings;

use Whisperer::Receiver;

$| = 1;
$Whisperer::Receiver::timeout = 30;
my $wrong = 0;
my $receiver = Whisperer::Receiver->new(listen => [ { name => 'main' }, { name => 'down' } ]);

# ---- Telling ---------------------------------------------------------------------------------
my %colour = map { $_ => $ENV{$_} // '' } qw(bold dim red green yellow cyan plain);

sub heading { print "\n$colour{bold}$_[0]$colour{plain}\n"; return; }
sub say_so { print "$_[0]\n"; return; }

# What is shown has to be true: says so, and remembers when it is not.
sub check
{
	my ($right, $what) = @_;
	$wrong++ unless $right;
	print $right ? "  $colour{green}right:$colour{plain} $what\n" : "  $colour{red}WRONG:$colour{plain} $what\n";
	return;
}

# Runs SQL and returns what psql printed; with show, as a person at psql would see it.
sub psql
{
	my ($sql, @options) = @_;
	open(my $output, '-|', 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-P', 'null=-', @options, '-c', $sql) or die "psql: $!\n";
	my $text = do { local $/; <$output> };
	close $output or die "psql failed\n";
	return $text // '';
}

sub value { my $text = psql($_[0], '-At'); chomp $text; return $text; }

sub show
{
	my ($sql) = @_;
	$sql =~ s/^\t+//mg;
	$sql =~ s/^\n+|\s+$//g;
	print map { "  $colour{cyan}$_$colour{plain}\n" } split /\n/, "$sql";
	my $result = psql($sql, '-P', 'footer=off');
	$result =~ s/\n+\z//;
	print map { "  $_\n" } split /\n/, $result if $result =~ /\S/;
	return;
}

sub show_request
{
	my ($request) = @_;
	print "  $colour{yellow}$request->{method} $request->{target} $request->{version}$colour{plain}\n";
	for (@{ $request->{headers} })
	{
		my ($name, $content) = @$_;
		my $ours = $name =~ /^(webhook-|x-whisperer|user-agent|x-shop)/i ? $colour{bold} : $colour{dim};
		print "  $ours$name:$colour{plain} $content\n";
	}
	print "\n  $request->{body}\n\n";
	return;
}

# The body without what differs from run to run, to compare bodies by.
sub payloads { return join ' ', sort map { /"payload": (.*)\}$/ ? $1 : '?' } map { $_->{body} } @_; }

# ---- The story -------------------------------------------------------------------------------
heading('whisperer: webhooks as reliable as the transaction that raised them');
show('CREATE EXTENSION whisperer;');

heading('A shop has a table of packages. Inserts, updates and deletes shall be told to others.');
show(q{CREATE TABLE package (id integer PRIMARY KEY, destination text, weight numeric);});
show(q{SELECT whisperer.register_event_type('package-created'), whisperer.register_event_type('package-changed');});
show(q{SELECT whisperer.attach('package', 'package-created', 'INSERT') AS on_insert,
		whisperer.attach('package', 'package-changed', 'UPDATE OR DELETE') AS on_change;});

my ($works, $flaky, $down) = ($receiver->url('/works'), $receiver->url('/flaky'), $receiver->url('/down', port => 'down'));
$receiver->behave(path => '/flaky', per => 'webhook-id', steps => [ { status => 500, times => 2, body => 'try again' }, { status => 200 } ]);
$receiver->unlisten('down');
heading('Three receivers subscribe: one works, one answers 500 twice and then works, one is down.');
show(qq{SELECT whisperer.subscribe('package-created', '$works', secret_key => 'between us',
		additional_headers => '{"X-Shop": "demo"}') AS works;});
show(qq{SELECT whisperer.subscribe('package-created', '$flaky',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0.5}}') AS flaky;});
show(qq{SELECT whisperer.subscribe('package-created', '$down', config => '{"max_attempts": 3}',
		retry_countdown_config => '{"choice": "linear", "kwargs": {"base": 0.5}}') AS down;});
show(qq{SELECT whisperer.subscribe('package-changed', '$works') AS works_too;});

heading('Two packages are inserted; a third is rolled back, and nobody shall hear of it.');
show(q{INSERT INTO package VALUES (1, 'Ankara', 1.5), (2, 'Zürich', 0.25);});
show(q{BEGIN; INSERT INTO package VALUES (3, 'nowhere', 9); ROLLBACK;});
$receiver->await('/works', 2);
heading('One is changed, one is deleted.');
show(q{UPDATE package SET destination = 'İzmir' WHERE id = 1;});
show(q{DELETE FROM package WHERE id = 2;});
$receiver->await('/works', 4);

say_so("\n$colour{dim}(waiting for the retries)$colour{plain}");
show(q{SELECT whisperer.wait_until_settled('20 s') AS settled;});

heading('What the one that works got:');
my @got = $receiver->requests(path => '/works');
show_request($_) for @got;
my $created = '{"id": 1, "weight": 1.5, "destination": "Ankara"} {"id": 2, "weight": 0.25, "destination": "Zürich"}';
check(payloads(grep { $_->{header}{'x-whisperer-event'} eq 'package-created' } @got) eq $created, 'both inserted packages, once each');
check(payloads(grep { $_->{header}{'x-whisperer-event'} eq 'package-changed' } @got) eq
	  '{"id": 1, "weight": 1.5, "destination": "İzmir"} {"id": 2, "weight": 0.25, "destination": "Zürich"}',
	'the update with the new row, the delete with the old one');
check(!(grep { $_->{body} =~ /nowhere/ } $receiver->requests), 'nothing of what was rolled back, at any receiver');
my @judged = $receiver->verify('/works', 'between us');
check((grep { $_->[1] eq 'ok' } @judged) == 2,
	q{the two with a secret are signed: verified by the npm package "standardwebhooks" and by Node's own HMAC});

heading('What the flaky one got: the same body and webhook-id each time, until it said 200.');
my @tries = $receiver->requests(path => '/flaky');
printf "  %.1f s  %s  %s\n", $_->{arrived} - $tries[0]{arrived}, $_->{id}, $_->{body} =~ /"payload": (.*)\}$/ for @tries;
my %times;
$times{"$_->{id} $_->{body}"}++ for @tries;
check(join(' ', values %times) eq '3 3', 'three attempts for each of two packages');

heading('What the views say:');
show(q{SELECT event_type, regexp_replace(target_url, '.*/', '') AS receiver, state, retry_count AS attempts,
		response_http_status AS status, request_payload -> 'payload' ->> 'id' AS package, left(error, 50) AS error
	FROM whisperer.webhook_events ORDER BY created_date, receiver, package;});
show(q{SELECT events, deliveries, attempts, delivered, failed FROM whisperer.statistics;});
check(value(q{SELECT concat_ws(' ', deliveries, attempts, delivered, failed) FROM whisperer.statistics}) eq '8 16 6 2',
	'eight deliveries, six arrived, two given up after three attempts');

heading('The one that was down comes back. One call sends what it missed.');
$receiver->listen(name => 'down', port => $receiver->port('down'));
show(q{SELECT whisperer.retry_failed();});
$receiver->await('/down', 2);
show(q{SELECT whisperer.wait_until_settled('20 s') AS settled;});
show(q{SELECT regexp_replace(target_url, '.*/', '') AS receiver, count(*), string_agg(DISTINCT state, ', ') AS state
	FROM whisperer.webhook_events GROUP BY 1 ORDER BY 1;});
check(payloads($receiver->requests(path => '/down')) eq $created, 'it has both packages now');
check(value('SELECT bool_and(delivered) FROM whisperer.webhook_events') eq 't', 'everything is delivered');

$receiver->stop;
heading($wrong ? "$colour{red}$wrong of these were wrong.$colour{plain}" : "$colour{green}All of it is right.$colour{plain}");
exit($wrong ? 1 : 0);
