# PREPARE TRANSACTION in one session, COMMIT PREPARED in another: delivered, and at once; ROLLBACK
# PREPARED: not at all.  Also across a restart and a crash in between.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Whisperer::Node;
use Whisperer::Receiver;

my $receiver = Whisperer::Receiver->new;
my $node = Whisperer::Node->started('main');
$node->safe_psql(
	'postgres', qq{
	CREATE TABLE item (id integer);
	SELECT whisperer.register_event_type('item');
	SELECT whisperer.attach('item', 'item');
	SELECT whisperer.subscribe('item', '@{[$receiver->url('/in')]}')});

my $ids = sub { join ' ', sort map { $_->{body} =~ /"id": (\d+)/ } $receiver->requests(path => '/in') };
my $prepare = sub { $node->safe_psql('postgres', "BEGIN; INSERT INTO item VALUES ($_[0]); PREPARE TRANSACTION 'p$_[0]'") };

$prepare->($_) for 1 .. 4;
$node->safe_psql('postgres', 'INSERT INTO item VALUES (9)');
$receiver->await('/in', 1);
$node->wait_settled;
is($ids->(), '9', 'nothing is sent for what is only prepared');

$node->safe_psql('postgres', q{COMMIT PREPARED 'p1'});
$receiver->await('/in', 2);
pass('COMMIT PREPARED in another session: sent at once, by no scan');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p2'});
$node->wait_settled;
is($ids->(), '1 9', 'ROLLBACK PREPARED: nothing');

$node->restart;
$node->safe_psql('postgres', q{COMMIT PREPARED 'p3'});
$receiver->await('/in', 3);
# What a crash finds sent and not yet recorded is sent again.
$node->wait_settled;
$node->crash_and_start;
$node->safe_psql('postgres', q{COMMIT PREPARED 'p4'});
$receiver->await('/in', 4);
$node->wait_settled;
is($ids->(), '1 3 4 9', 'prepared before a restart, or a crash, and committed after it');

# From another database of the same server it cannot be committed; a worker's own database is woken.
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->create_whisperer('second');
$node->safe_psql(
	'second', qq{
	SELECT whisperer.register_event_type('item');
	SELECT whisperer.subscribe('item', '@{[$receiver->url('/second')]}');
	BEGIN;
	SELECT whisperer.deliver_event('{"id": 5}'::jsonb, 'item');
	PREPARE TRANSACTION 'p5';});
$node->safe_psql('second', q{COMMIT PREPARED 'p5'});
$receiver->await('/second', 1);
pass('in a second database');

done_testing();
