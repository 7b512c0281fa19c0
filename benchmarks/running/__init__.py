"""One run: its plan, the straggler dial, the timed part, its evaluation, and recovery of a killed one."""
