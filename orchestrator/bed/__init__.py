"""Definition of a bed, and the data derived from it: addresses, zones, wiring."""
