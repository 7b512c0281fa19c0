"""`python -m outpace.benchmarks.command` is `outpace`."""

from outpace.benchmarks.command import start

start()
