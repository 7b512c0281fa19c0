"""Progress of a run, from rank 0: a bar on a terminal, a line now and then in a Slurm log, else silence."""

import os
import sys
import time
from typing import Any, Final

from outpace.comm.budget import Budget

LINE_EVERY_S: Final = 30.0
TERMINAL: Final = {"TTY_COMPATIBLE", "FORCE_COLOR"}  # by these rich may take a pipe for a terminal


class Reporter:
    """`show()` is called about once a second during the timed part, `close()` at its end."""

    def __init__(self, name: str, budget: Budget) -> None:
        self._name, self._budget = name, budget
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._bar = _bar() if sys.stderr.isatty() or TERMINAL & os.environ.keys() else None
        if self._bar:
            self._task = self._bar.add_task(name, total=budget.total)
            self._bar.start()

    def show(self) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self._budget.count, refresh=True)
        elif "SLURM_JOB_ID" in os.environ and time.monotonic() >= self._next_line:
            self._next_line += LINE_EVERY_S
            print(
                f"{self._name}: {self._budget.count} of {self._budget.total or 'open'}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def _bar() -> Any:
    """A bar of rich; None where it finds that this is no terminal."""
    from rich import progress  # slow, and few runs have a terminal
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    parts = (progress.BarColumn, progress.MofNCompleteColumn, progress.TimeElapsedColumn, progress.TimeRemainingColumn)
    columns = progress.TextColumn("{task.description}"), *(part() for part in parts)
    return progress.Progress(*columns, console=console, auto_refresh=False, transient=True)
