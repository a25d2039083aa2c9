# The tools of the 2021 benchmark, beside ours: postal sends, bhm swallows. For tests/bench/postal_bhm.py.
ARG BASE=testbed/agents:bookworm
FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postal \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
