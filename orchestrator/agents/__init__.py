"""Programs that run inside the containers of a bed: the load generator and the sink.

::

    sink, load, probe, control   what is started: python3 -m orchestrator.agents.<name>
    session, smtp                one SMTP connection: the sink's side, the generator's side
    faults                       sessions that the sink breaks off
    order                        what a load order may say
    ledger, content              the accounting; reading a message through
    wire, histogram, output      the stamped message, durations, what is printed
    contract                     what the orchestrator hears and says

They import the standard library, uvloop, hdrh, aiosmtplib and each other, nothing else of this package.
"""
