# Changes files in the ways that Perl programs have, one way a run: `ways.pl WAY`, in the working directory, with
# `old.dat` of 10,000 bytes there. Exit 0: done. Exit 2: there is no such way. Otherwise it failed.
use strict;
use warnings;
use Fcntl qw(:DEFAULT :seek);

my $text = "The quick brown fox jumps over the lazy dog\n";

my %ways = (
    print => sub {
        open my $out, '>', 'f.dat' or die $!;
        print $out "line $_\n" for 1 .. 2000;
        close $out or die $!;
        open $out, '>>', 'f.dat' or die $!;
        printf $out "more %05d\n", $_ for 1 .. 10;
        close $out or die $!;
    },
    autoflush => sub {
        open my $out, '>', 'f.dat' or die $!;
        select((select($out), $| = 1)[0]);
        print $out "line $_\n" for 1 .. 100;
        close $out or die $!;
    },
    syswrite => sub {
        sysopen my $out, 'f.dat', O_RDWR | O_CREAT or die $!;
        syswrite $out, $text for 1 .. 50;
        sysseek $out, 100, SEEK_SET;
        syswrite $out, $text;
        close $out or die $!;
    },
    update => sub {
        open my $file, '+<', 'old.dat' or die $!;
        seek $file, 5000, SEEK_SET;
        print $file $text;
        seek $file, 10, SEEK_SET;
        read $file, my $some, 20;
        seek $file, 0, SEEK_END;
        print $file $some;
        truncate $file, 10010 or die $!;
        close $file or die $!;
    },
    truncate => sub { truncate 'old.dat', 777 or die $! },
    names => sub {
        open my $out, '>', 'new.tmp' or die $!;
        print $out $text;
        close $out or die $!;
        rename 'new.tmp', 'old.dat' or die $!;
        link 'old.dat', 'second' or die $!;
        unlink 'second' or die $!;
        open $out, '>', 'gone.dat' or die $!;
        close $out or die $!;
        unlink 'gone.dat' or die $!;
    },
    standard_output => sub {
        open my $before, '>&', \*STDOUT or die $!;
        open STDOUT, '>', 'f.dat' or die $!;
        print $text;
        $| = 1;
        system 'echo from a child' and die;
        open STDOUT, '>&', $before or die $!;
        print "and standard output\n";
    },
    piped => sub {
        open my $out, '|-', 'cat > f.dat' or die $!;
        print $out $text for 1 .. 100;
        close $out or die $!;
    },
);

my $way = $ways{ $ARGV[0] } or exit 2;
$way->();
