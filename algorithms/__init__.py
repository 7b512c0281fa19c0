"""One program per file: its Config, its run() and the loop of its paper."""
