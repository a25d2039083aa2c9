"""testbed: a disposable, measured mail-and-DNS network in one command.

The layout is the architecture; imports point down this list and never up::

    cli           commands: parse, call, print, exit code
    runs          one run from start to end, and its forecast; many runs: sweeps, bisection, capsules
    scenarios     one file or package = one question: bed(params), drive(bed, params), judge(measured, params)
    report        a run directory -> terminal, HTML
    testing       the public Python API: a bed in the tests of other programs
    up            a bed that is up: bring-up (or its Compose files), its handle, its recording
    hosts         where nodes run: the engine, networks, images, capacity, ownership, clean-up
    measurements  the run directory, and its only reader
    plan          everything derived from a bed, and its graph
    services      one file = one kind of server
    bed           a bed as its author writes it: model, addresses, zones, wiring, built-in beds
    agents        programs that run inside nodes; they import nothing from above

Beside them: ``errors`` (what can go wrong, and its exit code), ``interrupts`` (signals), ``plaintext`` and
``strict_json`` (foreign text and numbers made safe to print and to store).
"""
