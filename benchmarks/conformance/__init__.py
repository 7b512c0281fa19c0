"""What every program must keep to: contracts, which the tests and `outpace check` try out."""
