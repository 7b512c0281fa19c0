"""One run in one file: recording it, its parts, snapshots and checkpoints, the HDF5 trace, and reading that."""
