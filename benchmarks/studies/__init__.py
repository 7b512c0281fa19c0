"""Studies: launches over a range of sizes or flags, with a table and figures, one file each. They claim nothing."""
