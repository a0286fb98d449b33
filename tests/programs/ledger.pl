#!/usr/bin/perl
# Keeps a fixed-length ledger and a text log the Perl way.
#
#   perl ledger.pl DIR ROUNDS [SEED]
#
# ledger.dat   fixed, 64-byte records: sysseek and syswrite, and buffered print after seek
# log.txt      text lines: print through PerlIO, with and without autoflush
use strict;
use warnings;
use Fcntl qw(:DEFAULT :seek :flock);
use IO::Handle;

my ($directory, $rounds, $seed) = @ARGV;
die "usage: perl ledger.pl DIR ROUNDS [SEED]\n" unless defined $rounds;
srand($seed // 1);
my $size = 64;

sub record { return sprintf("%010d%-54s", $_[0], "perl $_[1]") }

sysopen(my $ledger, "$directory/ledger.dat", O_RDWR | O_CREAT, 0644) or die "ledger.dat: $!\n";
open(my $log, ">>", "$directory/log.txt") or die "log.txt: $!\n";
my $records = int((-s $ledger) / $size);
for my $turn (1 .. $rounds) {
    my $what = int(rand(5));
    if ($what == 0 || $records == 0) {
        sysseek($ledger, $records * $size, SEEK_SET);
        syswrite($ledger, record(++$records, $turn)) == $size or die "writing ledger.dat: $!\n";
    } elsif ($what == 1) {
        my $number = int(rand($records));
        flock($ledger, LOCK_EX);
        sysseek($ledger, $number * $size, SEEK_SET);
        syswrite($ledger, record($number + 1, $turn)) == $size or die "writing ledger.dat: $!\n";
        flock($ledger, LOCK_UN);
    } elsif ($what == 2) {
        open(my $other, "+<", "$directory/ledger.dat") or die "ledger.dat: $!\n";
        my $number = int(rand($records));
        seek($other, $number * $size, SEEK_SET);
        print {$other} record($number + 1, "buffered $turn");
        close($other) or die "writing ledger.dat: $!\n";
    } elsif ($what == 3 && $records > 10) {
        truncate($ledger, --$records * $size) or die "cutting ledger.dat: $!\n";
    } else {
        $log->autoflush($turn % 3 == 0);
        print {$log} "turn $turn: $records records\n";
    }
}
close($log) or die "writing log.txt: $!\n";
