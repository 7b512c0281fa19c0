"""`outpace calibrate`: a machine for the simulation, from what four ranks measure here."""
