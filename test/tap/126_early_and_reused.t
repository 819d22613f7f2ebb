# Receivers that answer before they have read the request, one that stops reading it and says nothing, and receivers that end a kept-alive connection each time just as it is
# used again, under load: each delivery is answered once, and what is recorded is what was answered.
use strict;
use warnings;

use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new(listen => [ { name => 'main' }, { name => 'reset', reuse => 'reset' }, { name => 'close', reuse => 'close' } ]);
my $node = Whisperer::Node->started('main', settings => "whisperer.max_payload_size = '16MB'");
sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---- Answers to bodies of 8 MB, more than the sockets' buffers hold, of which only the head was read. 2xx: a receiver that wants
# no more of it has it all the same. After an answer that is cut by a reset the kernel may have thrown it away. Without an answer
# the time-out holds for sending, too.
my $lost = qr/^the response ended before it was whole: /;
my $slow = qr/^the response was not complete within 10 s/;
my %cases = (
	read_413 => [ { status => 413, early => 'read', body => 'too large' }, [ 413, qr/^the receiver answered with status 413$/, 'too large' ] ],
	read_200 => [ { status => 200, early => 'read', body => 'fine' }, [ 200, undef, 'fine' ] ],
	unread_413 => [ { status => 413, early => 'unread', body => 'too large' }, [ 413, qr/^the receiver answered with status 413$/, 'too large' ] ],
	unread_200 => [ { status => 200, early => 'unread', body => 'fine' }, [ 200, undef, 'fine' ], [ 200, $slow, 'fine' ] ],
	unread_413_close => [ { status => 413, early => 'unread', body => 'too large', close => \1 }, [ 413, qr/^the receiver answered with status 413$/, 'too large' ], [ undef, $lost ] ],
	read_413_close => [ { status => 413, early => 'read', body => 'too large', close => \1 }, [ 413, qr/^the receiver answered with status 413$/, 'too large' ], [ undef, $lost ] ],
	unread_410 => [ { status => 410, early => 'unread' }, [ 410, qr/^the receiver answered with status 410$/, '' ] ],
	unread_silent => [ { hang => 'head' }, [ undef, qr/^no response within 10 s \(.* sent [1-7]?\d{4,6} bytes, received 0 bytes; / ] ],
	unread_cut => [ { status => 200, early => 'unread', body => 'twohalves', cut => 'body' }, [ 200, $lost, 'twoh' ], [ 200, $lost, '' ], [ undef, $lost ] ],
);
my $statements = '';
for my $name (sort keys %cases)
{
	$receiver->answer("/$name", $cases{$name}[0], { status => 204 });
	$statements .= qq{SELECT whisperer.register_event_type('$name'); SELECT whisperer.subscribe('$name', '@{[$receiver->url("/$name")]}', config => '{"request_timeout": @{[$name =~ /^unread_(?:200|silent)$/ ? 10 : 60]}}',
		retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 1000}}');\n};
}
sql("$statements; SELECT whisperer.deliver_event(jsonb_build_object('x', repeat('x', 8000000)), event_type) FROM whisperer.event_types");
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.webhook_events WHERE retry_count = 0', 0);
for my $name (sort keys %cases)
{
	my ($step, @may) = @{ $cases{$name} };
	my ($status, $content, $error) = map { $_ eq '-' ? undef : $_ } split /\|/,
	  sql("SELECT coalesce(response_http_status::text, '-'), coalesce(response_content, '-'), coalesce(error, '-') FROM whisperer.webhook_events WHERE event_type = '$name'"), 3;
	my $same = sub { my ($got, $want) = @_; return defined $want ? defined $got && $got =~ $want : !defined $got; };
	ok(scalar(grep { $same->($status, defined $_->[0] ? qr/^$_->[0]$/ : undef) && $same->($error, $_->[1]) && (!defined $_->[2] || $content eq $_->[2]) } @may), "$name: status, error and response")
	  or diag(explain([ $status, $content, $error ]));
	is($receiver->count(path => "/$name"), 1, '... sent once');
	next unless $name eq 'unread_silent';
	my $took = sql("SELECT extract(epoch FROM response_time) FROM whisperer.webhook_events WHERE event_type = '$name'");
	cmp_ok($took, '>=', 10, '... and given up after its time');
	cmp_ok($took, '<', $ENV{WHISPERER_POSTGRES} ? 60 : 30, '... not much later');
}
is(sql(q{SELECT string_agg(event_type, ' ') FROM whisperer.subscriptions WHERE NOT is_active}), 'unread_410', 'an early 410 deactivates its subscription, and no other');
sql(q{SELECT whisperer.update_subscription(id, '{"config": {"request_timeout": 60}}') FROM whisperer.subscriptions; SELECT whisperer.retry(uuid) FROM whisperer.pending});
$node->poll_until('postgres', 'SELECT count(*) FROM whisperer.pending WHERE retry_count = 1', 0);
is(sql(q{SELECT string_agg(concat_ws(': ', event_type, error), '; ') FROM whisperer.webhook_events WHERE NOT delivered}), 'unread_410: the receiver answered with status 410',
	'the next attempts are not disturbed by what was left of these');

# ---- Each connection is ended on its second request, without an answer, 1,000 times.
my $count = 1000;
for my $how (qw(reset close))
{
	my $url = $receiver->url("/$how", port => $how);
	sql(qq{SELECT whisperer.register_event_type('$how'); SELECT whisperer.subscribe('$how', '$url', retry_countdown_config => '{"choice": "fixed", "kwargs": {"seconds": 0}}', config => '{"max_attempts": 100}');
		SELECT whisperer.deliver_event(jsonb_build_object('n', n), '$how') FROM generate_series(1, $count) n});
	$node->wait_settled;
	my (%answered, $unanswered);
	$_->{number} == 1 ? $answered{ $_->{id} }++ : $unanswered++ for $receiver->requests(path => "/$how");
	is(sql(qq{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = '$how' AND delivered}), $count, "$how: all are delivered");
	is(scalar(keys %answered), $count, '... all were answered');
	is(scalar(grep { $_ > 1 } values %answered), 0, '... none of them twice');
	cmp_ok($unanswered // 0, '>', $count / 20, '... while connections ended on being used again');
	is(sql(qq{SELECT count(*) FROM whisperer.webhook_events WHERE event_type = '$how' AND retry_count <> cardinality(request_datetimes)}), 0, '... and each attempt is recorded once');
}
unlike($node->log_since(0), qr/\b(?:ERROR|FATAL|PANIC):/, 'no error in the log');
$node->stop;
done_testing();
