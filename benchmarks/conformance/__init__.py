"""What every program must keep to, as contracts that a test or `outpace check` runs; collective, on any communicator."""
