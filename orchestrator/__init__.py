"""testbed: a disposable, measured mail-and-DNS network in one command.

The layout is the architecture; imports point down this list and never up::

    cli          commands: parse, call, print, exit code
    setup        a bare machine made ready: engine, base images, images
    sweep        many runs: for each value, in search of a threshold (bisect), of a run made elsewhere (capsule)
    runner       one run, start to end
    scenarios    one file or package = one question: bed(params), drive(live), judge(measurements)
    report       a run directory -> terminal, HTML
    live         the handle to a bed that is up
    collect      stats, logs: streams into the run directory
    lab          what a bed is made of on the host: parent, networks, owner, walls, clean-up
    engine       the one seam to Docker
    compose      a plan as files for Compose
    services     one file = one kind of server
    plan         the bed worked out; addressing, zones below it
    model        the bed as its author wrote it
    rundir       where a run is kept
    plaintext, strict_json    text and numbers of others made safe to print and to keep
    errors       what can go wrong, and its exit code
    agents       run inside containers; import nothing from above
"""
