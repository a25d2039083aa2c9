"""A bed as its author writes it, and what follows from that: addresses, zones, wiring."""
