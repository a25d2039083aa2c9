"""A provider of mail that depends on DNS: the MX records of a customer's domain (RFC 5321, 5.1)."""

from collections.abc import Sequence


def mx_records(hosts: Sequence[str]) -> list[str]:
    """Return the MX records of a domain whose mail goes to the first host, and to the next one if it is down."""
    return [f"{10 * preference} {host}." for preference, host in enumerate(hosts, start=1)]
