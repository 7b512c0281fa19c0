"""Runs in simulated time: `outpace run PROGRAM -n RANKS --simulate MACHINE`, all ranks in this process.

The program, its problem, its budget and its trace are those of any run. What `program` and `execution` do on every rank
under MPI is done here once: there are no part files, no checkpoints and no watcher, and nothing has to be agreed.
"""
