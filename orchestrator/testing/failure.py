"""Errors of an expectation about mail, and their wording.

::

    NotArrived    AssertionError, TimeoutError   the mail did not come in time
"""


class NotArrived(AssertionError, TimeoutError):
    """Fewer messages than expected arrived in time. The text names near misses, attempts, log, queue and DNS faults."""
