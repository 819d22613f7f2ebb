# Tens of thousands of deliveries over HTTP/2, to a real server: each arrives once, by its first attempt. (Idle connections on which
# something came were once taken for spoiled, and streams that were not read in libcurl's order for broken: some in a thousand.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../../bench/lib";
use Test::More;
use Bench::Nginx;
use Whisperer::Node;

my $count = 30_000;
my $nginx = Bench::Nginx->new(tls => 1);
my $node = Whisperer::Node->started('main', settings => "whisperer.ca_file = '$nginx->{certificate}'\nwhisperer.request_timeout = 600");
my $url = $nginx->url('/in');
$node->safe_psql('postgres', qq{
	SELECT whisperer.register_event_type('t');
	SELECT whisperer.subscribe('t', '$url');
	CREATE TABLE item (id integer);
	CREATE TRIGGER raise AFTER INSERT ON item REFERENCING NEW TABLE AS rows
		FOR EACH STATEMENT EXECUTE FUNCTION whisperer.deliver_event_trigger('t');
	INSERT INTO item SELECT generate_series(1, $count)});
$node->wait_settled('postgres', 900);
is($node->safe_psql('postgres', 'SELECT state, retry_count, error, count(*) FROM whisperer.webhook_events GROUP BY 1, 2, 3'),
	"delivered|1||$count", 'each by its first attempt');
is($nginx->requests, $count, 'and once');
$node->stop;
done_testing();
