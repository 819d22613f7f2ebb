# The receiver: nginx on loopback, one process, that answers every POST with 200. With tls => 1 it speaks HTTP/2 over TLS.
package Bench::Nginx;

use strict;
use warnings;

use HTTP::Tiny;
use IO::Socket::INET;
use PostgreSQL::Test::Utils ();

use Bench qw(wait_for);
use Whisperer::Receiver;

sub free_port
{
	my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "no port: $!\n";
	return $socket->sockport;
}

sub new
{
	my ($class, %options) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir();
	# Nobody else is given these ports while they are bound, before nginx listens at them and after it.
	my @bound = map { Whisperer::Receiver::bind_port() } 1 .. 2;
	my $self = bless { owner => $$, bound => \@bound, scheme => 'http', host => '127.0.0.1' }, $class;
	@$self{qw(port status)} = map { $_->sockport } @bound;
	my ($listen, $tls) = ("127.0.0.1:$self->{port}", '');
	if ($options{tls})
	{
		my ($certificate, $key) = Whisperer::Receiver::make_certificate($directory, 'DNS:localhost');
		@$self{qw(scheme host certificate)} = ('https', 'localhost', $certificate);
		$listen .= ' ssl http2';
		$tls = "ssl_certificate $certificate; ssl_certificate_key $key;";
	}
	my $temporary = join ' ', map { "${_}_temp_path $directory/$_;" } qw(client_body proxy fastcgi uwsgi scgi);
	PostgreSQL::Test::Utils::append_to_file("$directory/nginx.conf", <<"CONF");
daemon off; master_process off; pid $directory/nginx.pid; error_log $directory/error.log;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_body_buffer_size 64k; $temporary
  server { listen $listen backlog=4096; $tls location / { return 200 "ok"; } }
  server { listen 127.0.0.1:$self->{status}; location / { stub_status; } } }
CONF
	$self->{pid} = fork() // die "fork: $!";
	if ($self->{pid} == 0)
	{
		exec 'nginx', '-p', $directory, '-e', "$directory/error.log", '-c', "$directory/nginx.conf" or die "nginx: $!\n";
	}
	wait_for('nginx', 180, sub {
		waitpid($self->{pid}, 1) == 0 or die "nginx did not start: see $directory/error.log\n";
		return IO::Socket::INET->new(PeerAddr => "127.0.0.1:$self->{status}");
	});
	return $self;
}

sub url { my ($self, $path) = @_; return "$self->{scheme}://$self->{host}:$self->{port}" . ($path // '/'); }

# Requests received since the start, those for this number left out.
sub requests
{
	my $self = shift;
	my $answer = HTTP::Tiny->new(http_proxy => undef)->get("http://127.0.0.1:$self->{status}/");
	my ($requests) = $answer->{content} =~ /^ *\d+ +\d+ +(\d+)/m or die "nginx: no status: $answer->{content}\n";
	return $requests - ++$self->{asked};
}

sub DESTROY
{
	my $self = shift;
	return unless $self->{owner} == $$ && $self->{pid};
	local $?;
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

1;
