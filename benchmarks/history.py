"""What micro-benchmarks measured, kept as JSON: medians with their intervals, and two of them beside each other."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from outpace.benchmarks.figures.drawing import interval_of_median
from outpace.benchmarks.trace.files import output
from outpace.comm.errors import UserError

SCHEMA: Final = "outpace/micro"
SPREAD: Final = 0.1  # of the quartiles over the median: more, and the machine was not quiet
INTERVAL_FROM: Final = 6  # samples; of fewer all of them are the interval
NUMBERS: Final = ("median_s", "low_s", "high_s", "spread")

Measured = dict[str, dict[str, float]]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median with its 95 % interval, and the quartiles' distance over the median.

    >>> summary([3.0, 1.0, 2.0])
    {'median_s': 2.0, 'low_s': 1.0, 'high_s': 3.0, 'spread': 0.5}
    """
    samples = np.array(seconds)
    low, high = interval_of_median(samples) if len(samples) >= INTERVAL_FROM else (samples.min(), samples.max())
    quartiles = np.quantile(samples, [0.25, 0.75])
    median = float(np.median(samples))
    return {"median_s": median, "low_s": float(low), "high_s": float(high), "spread": float(np.ptp(quartiles)) / median}


def write(path: Path, about: Mapping[str, Any], times: Mapping[str, Sequence[float]]) -> None:
    """Keep the samples of every measure, in seconds, as summaries. Raises UserError where it cannot be written."""
    measured = {name: summary(seconds) for name, seconds in times.items()}
    kept = {"schema": SCHEMA, **about, "measured": measured}
    with output(path) as file:
        file.write(json.dumps(kept, indent=1).encode() + b"\n")


def read(path: Path) -> dict[str, Any]:
    """What `write` has kept. Raises UserError for a file that is nothing of the kind."""
    try:
        kept = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON; allowed: what outpace micro --json has written") from None
    measured = kept.get("measured") if isinstance(kept, dict) and kept.get("schema") == SCHEMA else None
    if not isinstance(measured, dict) or not all(map(_is_summary, measured.values())):
        raise UserError(f"{path}: no micro-benchmark; allowed: what outpace micro --json has written")
    return dict(kept)


def _is_summary(values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    numbers = [values.get(name) for name in NUMBERS]
    finite = all(isinstance(number, int | float) and 0 <= number < math.inf for number in numbers)
    return finite and values["median_s"] > 0


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> Table:
    """Old and new medians in microseconds with their intervals, and new over old; marked where the intervals are
    apart."""
    table = Table(title=f"{new['name']}: new beside old, us", title_justify="left")
    for column in ("", "old", "new", "new / old", ""):
        table.add_column(column, justify="left" if not column else "right")
    for name, now in new["measured"].items():
        then = old["measured"].get(name)
        if then is None:
            table.add_row(name, "-", _told(now), "-", "new")
            continue
        faster, slower = now["high_s"] < then["low_s"], now["low_s"] > then["high_s"]
        verdict = "faster" if faster else "slower" if slower else ""
        table.add_row(name, _told(then), _told(now), f"{now['median_s'] / then['median_s']:.2f}", verdict)
    return table


def warnings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What forbids to believe the comparison: another benchmark or machine, and times that spread."""
    for name in ("name", "backend", "links", "ranks", "cpu_model", "cores", "mpi_library"):
        if old.get(name) != new.get(name):
            yield f"another {name.replace('_', ' ')}: {old.get(name)}, now {new.get(name)}"
    yield from spreads(new)


def spreads(kept: Mapping[str, Any]) -> Iterator[str]:
    """The measures whose quartiles are too far apart."""
    for name, values in kept["measured"].items():
        if values["spread"] > SPREAD:
            yield f"{name}: the quartiles are {100 * values['spread']:.0f} % apart; was the machine busy?"


def _told(values: Mapping[str, float]) -> str:
    return "{:.4g} ({:.4g}-{:.4g})".format(*(1e6 * values[name] for name in ("median_s", "low_s", "high_s")))
