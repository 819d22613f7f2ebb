# A scripted HTTP receiver for a test: starts receiver.mjs, tells it how to answer, and reads what it
# got.  It ends with the test, however that ends.  See test/README.md for rules and steps.
package Whisperer::Receiver;

use strict;
use warnings;

use File::Basename qw(dirname);
use HTTP::Tiny;
use IO::Handle;
use IO::Socket::INET ();
use JSON::XS ();
use MIME::Base64 qw(decode_base64);
use Time::HiRes qw(time);

# Seconds that anything may take before a test gives up.
our $timeout = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 180;

my $json = JSON::XS->new->canonical;

# new(listen => [{name => 'main', ...}]): without it, one plain port "main".
sub new
{
	my ($class, %options) = @_;
	my $listen = $options{listen} || [ { name => 'main' } ];
	my $script = dirname(__FILE__) . '/../../receiver/receiver.mjs';

	# Perl closes these pipes when it starts another program (a server, psql), so that the
	# receiver's standard input ends with this process.
	pipe(my $input, my $keep_open) or die "pipe: $!";
	pipe(my $output, my $write_end) or die "pipe: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<&', $input) or die $!;
		open(STDOUT, '>&', $write_end) or die $!;
		exec('node', $script, $json->encode({ listen => $listen })) or die "node: $!";
	}
	close $input;
	close $write_end;
	my $line = <$output> // die "the receiver did not start\n";
	my $started = $json->decode($line);
	return bless {
		pid => $pid,
		owner => $$,
		input => $keep_open,
		control => "http://127.0.0.1:$started->{control}",
		ports => $started->{ports},
		http => HTTP::Tiny->new(timeout => $timeout + 30, http_proxy => undef, keep_alive => 1),
	}, $class;
}

sub DESTROY
{
	my $self = shift;
	$self->stop if $self->{owner} == $$;
	return;
}

sub stop
{
	my $self = shift;
	my $pid = delete $self->{pid} or return;
	local $?;
	close $self->{input};
	waitpid($pid, 0);
	return;
}

# One exchange with the control port; returns what it answered, dies with its error.
sub _control
{
	my ($self, $method, $path, $content) = @_;
	my %options = defined $content ? (content => $json->encode($content)) : ();
	my $response = $self->{http}->request($method, "$self->{control}$path", \%options);
	die "receiver: $method $path: $response->{status} $response->{content}\n" unless $response->{success};
	return $json->decode($response->{content});
}

sub port { my ($self, $name) = @_; return $self->{ports}{ $name // 'main' }; }

# url('/path'), url('/path', port => 'other', scheme => 'https', host => 'localhost')
sub url
{
	my ($self, $path, %options) = @_;
	my $scheme = $options{scheme} // 'http';
	my $host = $options{host} // '127.0.0.1';
	return "$scheme://$host:" . $self->port($options{port}) . $path;
}

# What requests to a path are answered, one step after the other; the last one repeats.
sub answer
{
	my ($self, $path, @steps) = @_;
	return $self->behave(path => $path, steps => \@steps);
}

# A whole rule: path, port, per (a header: each of its values has a count of its own), steps.
sub behave { my ($self, %rule) = @_; $self->_control('POST', '/behave', \%rule); return; }

# Opens and closes ports.  A port opened again without a number has another one.
sub listen
{
	my ($self, %options) = @_;
	$self->{ports}{ $options{name} } = $self->_control('POST', '/listen', \%options)->{port};
	return;
}
sub unlisten { my ($self, $name) = @_; $self->_control('POST', '/unlisten', { name => $name }); return; }

# Answers questions for names (port 53, in a network namespace: Whisperer::Namespace); what was asked, "name type" => times.
sub names { my ($self, %records) = @_; $self->_control('POST', '/names', { records => \%records }); return; }
sub names_asked { my $self = shift; return $self->_control('GET', '/names')->{asked}; }

# Lets answers go that hang, of one path or all.
sub release
{
	my ($self, $path) = @_;
	$self->_control('POST', '/release', defined $path ? { path => $path } : {});
	return;
}

# Forgets what arrived; reset forgets the rules, too.
sub forget { my $self = shift; $self->_control('POST', '/forget', {}); return; }
sub reset { my $self = shift; $self->_control('POST', '/reset', {}); return; }

# requests, connections, open, held, active, most_active: see test/README.md
sub statistics { my $self = shift; return $self->_control('GET', '/statistics'); }

sub _query
{
	my (%filter) = @_;
	return '/requests?' . join '&', map { "$_=" . _escape($filter{$_}) } sort keys %filter;
}

sub _escape { my $text = shift; $text =~ s/([^A-Za-z0-9._~\/-])/sprintf '%%%02X', ord $1/ge; return $text; }

# The requests that arrived so far, oldest first; filter: path, port, id, after (a seq), brief.
sub requests
{
	my ($self, %filter) = @_;
	return map { _unpack($_) } @{ $self->_control('GET', _query(%filter))->{requests} };
}

sub count
{
	my ($self, %filter) = @_;
	return $self->_control('GET', _query(%filter, count => 1))->{count};
}

# Waits until at least that many requests to the path arrived, and returns all of them.  Dies when
# they do not, so that a test stops at what went wrong.
sub await
{
	my ($self, $path, $min, %filter) = @_;
	my $within = delete $filter{timeout} // $timeout;
	my $answer = $self->_control('GET', _query(path => $path, min => $min, timeout => $within, %filter));
	return map { _unpack($_) } @{ $answer->{requests} } if $answer->{enough};
	die "waited $within s for $min requests to $path, and got $answer->{count}\n";
}

# Verifies the signatures of all requests to a path with verify.mjs: a list of [webhook-id, 'ok' or
# what is wrong, payload's value of the key].
sub verify
{
	my ($self, $path, $secret, $key) = @_;
	my $script = dirname(__FILE__) . '/../verify.mjs';
	open(my $lines, '-|', 'node', $script, $self->{control}, $path, $secret, $key // ()) or die "node: $!";
	my @verified = map { chomp; [ split / /, $_, 3 ] } <$lines>;
	close $lines or die "verify.mjs failed\n";
	return @verified;
}

# Headers by name in lower case beside the list in order; the body decoded.
sub _unpack
{
	my $request = shift;
	return $request unless $request->{headers};
	$request->{$_} = decode_base64($request->{$_}) for qw(head body);
	$request->{header} = { map { lc $_->[0] => $_->[1] } @{ $request->{headers} } };
	return $request;
}

# A self-signed certificate for names and addresses like 'DNS:localhost', 'IP:127.0.0.1': returns
# (certificate, key), two file names.
sub make_certificate
{
	my ($directory, @names) = @_;
	my ($certificate, $key) = ("$directory/receiver.crt", "$directory/receiver.key");
	_openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=receiver',
		'-addext', 'subjectAltName=' . join(',', @names), '-keyout', $key, '-out', $certificate);
	return ($certificate, $key);
}

# The same, valid for a day in 2020. Only "openssl ca" takes dates in every version.
sub make_expired_certificate
{
	my ($directory, @names) = @_;
	my ($certificate, $key, $config) = map { "$directory/expired.$_" } qw(crt key conf);
	open(my $handle, '>', $config) or die "$config: $!";
	print $handle <<"CONF";
[ca]
default_ca = own
[own]
database = $directory/expired.index
new_certs_dir = $directory
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = @{[join ',', @names]}
CONF
	close $handle or die "$config: $!";
	open($handle, '>', "$directory/expired.index") or die $!;
	close $handle;
	_openssl('req', '-new', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=expired', '-keyout', $key, '-out', "$directory/expired.csr");
	_openssl('ca', '-batch', '-notext', '-selfsign', '-config', $config, '-keyfile', $key, '-in', "$directory/expired.csr",
		'-out', $certificate, '-startdate', '20200101000000Z', '-enddate', '20200102000000Z');
	return ($certificate, $key);
}

sub _openssl { system('openssl', @_) == 0 or die "openssl $_[0] failed\n"; return; }

# A port of 127.0.0.1 that refuses, and that nobody else gets as long as the handle is there: bound, but nobody listens. Who asks
# for this very port (and sets SO_REUSEADDR, as servers do) may listen at it meanwhile.
sub bind_port
{
	return IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp', ReuseAddr => 1) || die "no port: $!\n";
}

# The same under a name, as long as the receiver is there; "listen" with its number opens it.
sub refusing_port
{
	my ($self, $name) = @_;
	$self->{bound}{$name} = bind_port();
	return $self->{ports}{$name} = $self->{bound}{$name}->sockport;
}

1;
