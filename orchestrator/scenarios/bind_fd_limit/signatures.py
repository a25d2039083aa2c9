"""Log lines of named that show the fault."""

FETCHED = r"managed-keys-zone: Unable to fetch DNSKEY set"
"""Nothing of a bed reaches a root server, so it fails in any case; by then the first outgoing sockets were tried."""
OVER = "socket: file descriptor exceeds limit (N/M)"
RNDC_REFUSED = "accept: file descriptor exceeds limit (N/M)"
"""The socket of a connection gets the lowest free number, so of an idle named this line tells whether it is over. Some
addresses short of that, the other one comes and goes with the number of outgoing sockets that are open at once."""
ABORT = "fatal error, and the end"
SIGNATURES = {
    OVER: r"socket: file descriptor exceeds limit \(\d+/\d+\)",
    "managed-keys-zone: ... not enough free resources": FETCHED + r" '\.': not enough free resources",
    "couldn't add command channel: ... not enough free resources": r"command channel \S+: not enough free resources",
    RNDC_REFUSED: r"accept: file descriptor exceeds limit \(\d+/\d+\)",
    "Accepting TCP connection failed: too many open files": r"Accepting TCP connection failed: too many open files",
    ABORT: r"\.c:\d+:.*fatal error",
}
"""What is looked for in the logs: what a report calls it -> pattern."""
