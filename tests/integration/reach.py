"""Knock at addresses from inside a container: a Perl script, because Perl is in every image, whatever else is not."""

from collections.abc import Iterable, Mapping

_SCRIPT = r"""
use strict;
use warnings;
use IO::Handle;
use Socket qw(:all getaddrinfo);

my ($name, @asked) = @ARGV;
my (%waiting, %fate);
for my $line (@asked) {
    my ($how, $host, $port) = split ' ', $line;
    my $kind = $how eq 'tcp' ? SOCK_STREAM : SOCK_DGRAM;
    my ($error, $found) = getaddrinfo($host, $port, { flags => AI_NUMERICHOST, socktype => $kind });
    if ($error) { $fate{$line} = "no address: $error"; next }
    my $protocol = $how ne 'icmp' ? 0 : $found->{family} == AF_INET ? 1 : 58;
    socket(my $socket, $found->{family}, $kind, $protocol) or die "socket: $!";
    $socket->blocking(0);
    if (!connect($socket, $found->{addr}) && !$!{EINPROGRESS}) { $fate{$line} = "connect: $!"; next }
    my $sent = $how eq 'udp' ? pack('n6 C/a* C n2', 4711, 0x0100, 1, 0, 0, 0, $name, 0, 1, 1)
        : $how eq 'icmp' ? pack('C2 n3', $protocol == 1 ? 8 : 128, 0, 0, 0, 1) : '';
    if ($sent && !defined send($socket, $sent, 0)) { $fate{$line} = "send: $!"; next }
    $waiting{fileno $socket} = [$line, $how, $socket];
}
my $deadline = time + 2;
while (%waiting && time < $deadline) {
    my ($reads, $writes) = ('', '');
    vec($_->[1] eq 'tcp' ? $writes : $reads, fileno $_->[2], 1) = 1 for values %waiting;
    next unless select($reads, $writes, undef, 0.2) > 0;
    for my $number (keys %waiting) {
        my ($line, $how, $socket) = @{$waiting{$number}};
        next unless vec($how eq 'tcp' ? $writes : $reads, $number, 1);
        $! = $how eq 'tcp' ? unpack('i', getsockopt($socket, SOL_SOCKET, SO_ERROR)) : 0;
        my $there = $how eq 'tcp' ? !$! : defined recv($socket, my $data, 512, 0);
        $fate{$line} = $there ? 'answered' : "refused: $!";
        delete $waiting{$number};
    }
}
print "$_ = ", $fate{$_} // 'silence', "\n" for @asked;
"""

ANSWERED = "answered"
"""What becomes of a knock when somebody is there: a connection, a datagram, an echo."""


def knocking(targets: Iterable[str], name: str = "localhost") -> tuple[str, ...]:
    """Return the command that knocks at targets: ``tcp 192.0.2.1 25``, ``udp fe80::1%eth0 53``, ``icmp 192.0.2.1 0``.

    A UDP knock is a DNS question for the address of ``name``, which has one label.
    """
    return ("perl", "-e", _SCRIPT, name, *targets)


def fates(printed: str) -> Mapping[str, str]:
    """Read what the command printed: target -> ``answered``, or why not."""
    return dict(line.split(" = ", 1) for line in printed.splitlines())
