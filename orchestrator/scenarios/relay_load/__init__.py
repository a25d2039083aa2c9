"""A load through a relay: what scenarios about relays share. It is no scenario itself.

::

    params      the relay, the load, and what can be varied of them
    bed         the built-in relay bed with that relay
    drive       the loads before the one that is measured: connections and calibration
    probes      how many connections a relay needs
    evidence    an account of every message, and the limits of the instrument
"""
