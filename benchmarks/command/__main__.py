"""`python -m outpace.benchmarks.command` is `outpace`."""

import sys

from outpace.benchmarks.command import main

sys.exit(main())
