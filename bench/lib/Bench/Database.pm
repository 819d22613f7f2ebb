# A database of a scenario's server: events are loaded into it, sent, and verified to the last one.
package Bench::Database;

use strict;
use warnings;

use Bench qw(now wait_for);

# With the envelope around it a body has about 300 bytes; see body_size().
our $filler = "repeat('x', 195)";
our $secret = 'a secret of the usual length';

sub new
{
	my ($class, $server, $name) = @_;
	my $self = bless { server => $server, name => $name, session => $server->session($name) }, $class;
	$self->mark;
	return $self;
}

sub sql { my ($self, $sql) = @_; return $self->{session}->query($sql); }
sub connection { my $self = shift; return $self->{server}->connstr($self->{name}); }

# After a restart of the server.
sub reconnect
{
	my $self = shift;
	$self->{session}->close;
	wait_for('the server', 60, sub {
		return eval { $self->{session} = $self->{server}->session($self->{name}); $self->sql('SELECT 1'); };
	});
	return;
}

# Deliveries raised from now on are the ones that verify() counts.
sub mark
{
	my $self = shift;
	$self->{since} = $self->sql('SELECT clock_timestamp()');
	return;
}

# One signed subscription to a type, which is registered if it is new; its id.
sub subscribe
{
	my ($self, $type, $url) = @_;
	$self->sql(qq{SELECT whisperer.register_event_type('$type')
		WHERE NOT EXISTS (SELECT FROM whisperer.event_types WHERE event_type = '$type')});
	return $self->sql("SELECT whisperer.subscribe('$type', '$url', secret_key => '$secret')");
}

# A table whose inserts raise events of the type, all rows of a statement at once.
sub make_table
{
	my ($self, $table, $type, %options) = @_;
	my $kind = $options{unlogged} ? 'UNLOGGED TABLE' : 'TABLE';
	$self->sql("CREATE $kind $table (id bigint GENERATED ALWAYS AS IDENTITY, a text)");
	return unless defined $type;
	my $each = $options{each_row} ? 'FOR EACH ROW' : 'REFERENCING NEW TABLE AS written FOR EACH STATEMENT';
	$self->sql("CREATE TRIGGER raise AFTER INSERT ON $table $each EXECUTE FUNCTION whisperer.deliver_event_trigger('$type')");
	return;
}

sub insert
{
	my ($self, $table, $count) = @_;
	return $self->sql("INSERT INTO $table (a) SELECT $filler FROM generate_series(1, $count)");
}

# Events raised by inserts, at most 100,000 in a transaction.
sub load
{
	my ($self, $table, $count) = @_;
	for (my $left = $count; $left > 0; $left -= 100_000)
	{
		$self->insert($table, $left < 100_000 ? $left : 100_000);
	}
	$self->sql('CHECKPOINT');
	return;
}

# Nothing waits and nothing is remembered; the tables named are emptied, too.
sub clean
{
	my ($self, @tables) = @_;
	$self->sql('TRUNCATE ' . join ', ', qw(whisperer.delivery whisperer.history whisperer.event whisperer.job), @tables);
	$self->mark;
	return;
}

sub delivered { my $self = shift; return $self->sql('SELECT delivered FROM whisperer.statistics'); }

# Until so many more were delivered than before; calls sample() in between.
sub wait_delivered
{
	my ($self, $target, %options) = @_;
	my $seconds = $options{seconds} // 120 + $target / 500;
	wait_for("$target deliveries in $self->{name}", $seconds, sub {
		$options{sample}->() if $options{sample};
		return $self->delivered >= $target;
	});
	return;
}

# Sends what waits: sending was off, and so many deliveries wait; settings are set at the same moment. Returns seconds from switching it on until the last is
# recorded, and seconds from the first request to the last record, after having counted everything.
sub drain
{
	my ($self, $count, %options) = @_;
	my $server = $self->{server};
	my $nginx = $options{nginx};
	my $requests = $nginx ? $nginx->requests : 0;
	my $target = $self->delivered + $count;
	my $begin = now();
	$server->sending_on(%{ $options{settings} // {} });
	$self->wait_delivered($target, %options);
	my $wall = now() - $begin;
	$server->sending_off;
	my $sent = $self->verify($count);
	if ($nginx)
	{
		my $got = $nginx->requests - $requests;
		die "$got requests for $count deliveries\n" if $got != $count;
	}
	return { wall => $wall, sending => $sent };
}

# Dies unless exactly so many deliveries were raised since mark(), and each was delivered by its first attempt. Returns the
# seconds from the first request to the last record.
sub verify
{
	my ($self, $count) = @_;
	my $answer = $self->sql(qq{
		SELECT count(*), count(*) FILTER (WHERE delivered AND retry_count = 1),
			extract(epoch FROM max(modified_date) - min(request_datetimes[1]))
		FROM whisperer.webhook_events WHERE created_date >= '$self->{since}'});
	my ($all, $delivered, $seconds) = split /\|/, $answer;
	die "of $count deliveries there are $all, delivered at once: $delivered\n" if $all != $count || $delivered != $count;
	return $seconds;
}

# Bytes of a body that load() raises.
sub body_size
{
	my $self = shift;
	return $self->sql('SELECT octet_length(request_payload::text) FROM whisperer.webhook_events LIMIT 1');
}

sub worker { my $self = shift; return ($self->{server}->delivery_pids($self->{name}))[0]; }

1;
