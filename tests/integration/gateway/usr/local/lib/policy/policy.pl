#!/usr/bin/perl
# A policy service (Postfix SMTPD_POLICY_README): answers every request, and says in Postfix's log for which recipient.
use strict;
use warnings;

$| = 1;
my %request;
while (my $line = <STDIN>) {
    chomp $line;
    if ($line =~ /^(\w+)=(.*)/) {
        $request{$1} = $2;
        next;
    }
    print "action=INFO policy was asked about $request{recipient}\n\n";
    %request = ();
}
