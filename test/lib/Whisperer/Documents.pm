# Documents that are tests: the parts of a Markdown file that are run, in order.
#
#   ```sql            is run with psql, in a session of its own, and must not fail
#   ```sql shown      is not run: it needs another server, or a restart
#   ```sql with=NAME      is run where there is a function whisperer.NAME
#   -- ERROR WH002    in a block: that its last statement fails so
#   ```text           right after an SQL block: what psql prints, white space, times and ids apart; … is anything
#   <!-- receiver: /path 500 500 200 -->       what requests to a path are answered, for each delivery anew
#   <!-- receiver: /path {"status": 200, "body": "…"} -->   the same as steps (see test/README.md)
#   <!-- until: SELECT … -->                   waits until that answers true
#   <!-- verifies: /path secret -->            the next block, Python or JavaScript, has functions verify and
#                                              verify_body (verifyBody) that accept what arrived at that path
package Whisperer::Documents;

use strict;
use warnings;
use utf8;

# [{kind, line, text, info}, …]; kind: sql, text, receiver, until, or the language of a block.
sub parts
{
	my ($file) = @_;
	open(my $handle, '<:encoding(UTF-8)', $file) or die "$file: $!";
	my (@parts, $block);
	while (my $line = <$handle>)
	{
		if ($block)
		{
			if ($line =~ /^\s*```\s*$/) { push @parts, $block; undef $block; next; }
			$block->{text} .= $line;
		}
		elsif ($line =~ /^\s*```(\w+)[ \t]*(.*?)\s*$/)
		{
			$block = { kind => $1, info => $2, line => $., text => '' };
		}
		elsif ($line =~ /^\s*```/) { die "$file:$.: a block without a language\n"; }
		elsif ($line =~ /^<!-- (receiver|until|verifies): (.*?) -->\s*$/)
		{
			push @parts, { kind => $1, line => $., text => $2 };
		}
		elsif ($line =~ /\S/ && $line !~ /^<!--/) { push @parts, { kind => 'prose', line => $. }; }
	}
	die "$file: a block is not closed\n" if $block;
	close $handle;
	return @parts;
}

# ("/path", step, …) of a receiver's line.
sub receiver_rule
{
	my ($text, $json) = @_;
	my ($path, $steps) = $text =~ m{^(/\S*)\s+(.*)$} or die "not a receiver's rule: $text\n";
	return ($path, $json->decode($steps)) if $steps =~ /^\{/;
	return ($path, map { { status => $_ } } split ' ', $steps);
}

# The SQLSTATE that a block announces, or undef.
sub announced { my ($sql) = @_; return $sql =~ /--\s*ERROR\s+([0-9A-Z]{5})\b/ ? $1 : undef; }

# Example hosts become the receiver. And where a reader would wait for ten seconds and look again, a slow machine waits on.
sub localised
{
	my ($text, $base) = @_;
	$text =~ s{https?://(?:[\w-]+\.)*example\.(?:com|org|net)(?::\d+)?}{$base}g;
	$text =~ s{whisperer\.wait_until_settled\(\)}{whisperer.wait_until_settled('180 s')}g;
	return $text;
}

# What is left of psql's output when everything that differs from run to run is gone.
sub normal
{
	my ($text, $base) = @_;
	$text =~ s{\Q$base\E}{URL}g if defined $base;
	$text =~ s{https?://(?:[\w-]+\.)*example\.(?:com|org|net)(?::\d+)?}{URL}g;
	$text =~ s{\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b}{<uuid>}g;
	$text =~ s{\b[0-9a-f]{32}\b}{<hex>}g;
	$text =~ s{\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00(?::00)?)?}{<time>}g;
	$text =~ s{\b\d\d:\d\d:\d\d\.\d+}{<duration>}g;
	return join "\n", grep { length && !/^[-+ ]+$/ } map { s/\s+/ /gr =~ s/^ | $//gr } split /\n/, $text;
}

# Whether the output is what the document shows.
sub same
{
	my ($got, $shown, $base) = @_;
	my $pattern = join '.*?', map { quotemeta } split /…/, normal($shown, $base), -1;
	return normal($got, $base) =~ /\A\s*$pattern\s*\z/s;
}

1;
