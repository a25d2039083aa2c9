"""Programs that run inside the containers of a bed: load generator, sink, inbox, DNS gate.

::

    sink, load, probe, control   programs: python3 -m orchestrator.agents.<name>
    session, smtp                one SMTP connection: the sink's side, the generator's side
    rules, ruled                 rules of a sink, and its sessions under rules
    order                        bounds of a load order
    ledger, content              accounting; reader of one message
    wire, histogram, output      stamped message, durations, printed lines
    contract                     messages between orchestrator and agents

These modules import the standard library, third-party packages and each other, but no other part of ``orchestrator``.
"""
