"""An explanation for people: who is to blame in a line each, then the tables behind it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.table import Table

from outpace.benchmarks.explaining import Explanation
from outpace.benchmarks.explaining.culprits import Culprit
from outpace.benchmarks.trace import pairs, schema

CAUSES: Final = {
    "compute": "gradients take longer",
    "link": "its link is slow",
    "server": "it serves all the time",
}
OF: Final = {"run": "the run's time", "exchanges": "the exchanges' time"}
NOBODY: Final = "nobody: no rank, link or server stands out"

Row = list[str]


def headline(explained: Explanation) -> str:
    """What ran, in one line."""
    run = explained.run
    a, gradients = run.attrs, len(run.column("steps", "t_s"))
    return f"{run.name}, {a['n_workers']} workers, {a['claim_class']}: {gradients} gradients in {a['wall_s']:.3g} s"


def of_culprit(culprit: Culprit) -> str:
    """One culprit in a line.

    >>> of_culprit(Culprit(1, "compute", 0.83, "ended 22 of 22 rounds last", injected=True))
    "rank 1, gradients take longer, by injected delays: 83 % of the run's time; ended 22 of 22 rounds last"
    """
    who = "no single rank" if culprit.rank is None else f"rank {culprit.rank}"
    cause = CAUSES[culprit.cause] + ", by injected delays" * culprit.injected
    return f"{who}, {cause}: {100 * culprit.share:.0f} % of {OF[culprit.of]}; {culprit.why}"


def blame(explained: Explanation) -> list[str]:
    """A line for each culprit, or one that there is none."""
    return [of_culprit(culprit) for culprit in explained.culprits] or [NOBODY]


def progress(explained: Explanation) -> str:
    """Whether MPI let messages through while ranks computed, or why that does not matter."""
    a = explained.run.attrs
    if a["progress"] == "none":
        return "no message has to be answered while a rank computes"
    answers = zip(schema.PROGRESS_LOADS, a.get("progress_wait_s", []), strict=False)
    told = ", ".join(f"{1e3 * seconds:.2g} ms beside {load}" for load, seconds in answers)
    good = a["progress"] == "wait-free"
    return f"{'good enough' if good else 'too slow: answers come late because ranks compute'} ({a['progress']}: {told})"


def tables(explained: Explanation) -> Iterator[tuple[str, Row, list[Row]]]:
    """Each table as its title, its column names and its rows, all text; those without rows are left out."""
    wall_s = float(explained.run.attrs["wall_s"])

    def percent(part: float | None) -> str:
        return "" if part is None else f"{100 * part:.3g}" if part < 0.1 else f"{100 * part:.1f}"

    spent = explained.time_s
    rows = [[str(r), *(percent(of[r] / wall_s) for of in spent.values())] for r in range(len(spent["compute"]))]
    found = [("Where the time went, in % of the run", ["rank", *spent], rows)]
    names = ["rank", "ended last", "by, ms", "s on it", "lost, %"]
    rows = [
        _row(line["rank"], line["rounds"], _ms(line["later_by_s"]), line["busy_s"], percent(line["lost_s"] / wall_s))
        for line in explained.path
    ]
    found.append(("Critical path: who ended the rounds, and what longer than usual was lost", names, rows))
    rows = [_row(line["rank"], line["gradients"], line["mean"], line["p95"]) for line in explained.staleness]
    found.append(("Staleness of the gradients", ["rank", "gradients", "mean", "95 %"], rows))
    names = ["rank", "peer", "times", "median, ms", "s in all"]
    rows = [
        _row(line["rank"], line["peer"], line["count"], _ms(line["median_s"]), line["sum_s"])
        for line in explained.exchanges
    ]
    found.append(("Communication by peer", names, rows))
    rows = []
    for of in explained.saturation:
        link = of["link_bytes_per_s"]
        told = pairs.rate(of["bytes_per_s"] or 0.0), "" if link is None else pairs.rate(link)
        rows.append(_row(of["rank"], *told, percent(of["link"]), percent(of["server"])))
    names = ["rank", "busier way", "its link", "link busy, %", "serving, %"]
    found.append(("Links and servers", names, rows))
    rows = [
        _row(each.what.replace("this rank", f"rank {each.rank}"), each.wall_s, f"{each.speed_up:.2f}", each.assumption)
        for each in explained.what_if
    ]
    found.append(("What if", ["", "s", "times as fast", "assuming that"], rows))
    return (table for table in found if table[2])


def for_terminal(explained: Explanation) -> Iterable[str | Table]:
    """What `outpace explain` prints, one thing after the other."""
    yield f"{explained.run.path}: {headline(explained)}"
    yield "\nTo blame:"
    yield from (f"  {line}" for line in blame(explained))
    for title, names, rows in tables(explained):
        yield ""
        yield _drawn(title, names, rows)
    yield f"\nMPI's progress: {progress(explained)}"


def _drawn(title: str, names: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(names):
        wide = rows[0][place][:1].isalpha() and name != "rank"
        table.add_column(name, justify="left" if wide else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _row(*cells: float | str | None) -> Row:
    return [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"
