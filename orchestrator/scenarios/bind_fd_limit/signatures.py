"""Log lines of named that show the fault."""

FETCHED = r"managed-keys-zone: Unable to fetch DNSKEY set"
"""A bed never reaches a root server, so the fetch always fails; by then named has requested its first sockets."""
OVER = "socket: file descriptor exceeds limit (N/M)"
RNDC_REFUSED = "accept: file descriptor exceeds limit (N/M)"
"""A connection's socket gets the lowest free descriptor, so this line shows whether even an idle named is over its
limit. A few addresses below that, the line ``OVER`` depends on the number of outgoing sockets open at once."""
ABORT = "fatal error, and the end"
SIGNATURES = {
    OVER: r"socket: file descriptor exceeds limit \(\d+/\d+\)",
    "managed-keys-zone: ... not enough free resources": FETCHED + r" '\.': not enough free resources",
    "couldn't add command channel: ... not enough free resources": r"command channel \S+: not enough free resources",
    RNDC_REFUSED: r"accept: file descriptor exceeds limit \(\d+/\d+\)",
    "Accepting TCP connection failed: too many open files": r"Accepting TCP connection failed: too many open files",
    ABORT: r"\.c:\d+:.*fatal error",
}
"""Name of a signature in reports -> pattern of its log line."""
