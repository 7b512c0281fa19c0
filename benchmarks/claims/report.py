"""What `outpace claims` leaves: claims.json, report.md, and report.html, one page with its figures in it."""

import base64
import datetime
import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jinja2

from outpace.benchmarks import figures
from outpace.benchmarks.claims.claim import Scale
from outpace.benchmarks.claims.statistics import LEVEL
from outpace.benchmarks.claims.verdict import Outcome, Verdict
from outpace.benchmarks.figures.page import HEIGHT, WIDTH, house_style, png
from outpace.benchmarks.machine import provenance
from outpace.benchmarks.machine.version import VERSION
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

TEMPLATES: Final = Path(__file__).parent
FIGURES: Final = "figures"
DPI: Final = 110
COLOURS: Final = {Verdict.HOLDS: "#009E73", Verdict.FAILS: "#D55E00", Verdict.UNDECIDED: "#B58900"}


def write(outcomes: Sequence[Outcome], scale: Scale, folder: Path) -> list[Path]:
    """The files written. Raises UserError where the folder cannot be written."""
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    images: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        if outcome.measured:
            for name, image in _figures(outcome):
                with output(folder / FIGURES / name) as file:
                    file.write(image)
                images.setdefault(outcome.claim.id, []).append((name, base64.b64encode(image).decode()))
    about = _about(outcomes, scale, folder)
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=jinja2.select_autoescape(["html.jinja"]), trim_blocks=True
    )
    written = []
    for name in ("claims.json", "report.md", "report.html"):
        if name.endswith(".json"):
            text = json.dumps(about, indent=1, allow_nan=False) + "\n"
        else:
            shown = {"outcomes": outcomes, "images": images, "measured": measured, "counts": _counts(outcomes)}
            text = jinja.get_template(f"{name}.jinja").render(about=about, **shown)
        with output(folder / name) as file:
            file.write(text.encode())
        written.append(folder / name)
    return written


def measured(outcome: Outcome) -> str:
    """The value and its interval, in words."""
    if not outcome.measured:
        return "-"
    low, high = outcome.measured.interval
    value = f"{outcome.measured.value:.4g}"
    return value if low == high else f"{value} ({low:.4g} to {high:.4g})"


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.verdict for outcome in outcomes)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def _about(outcomes: Sequence[Outcome], scale: Scale, folder: Path) -> dict[str, Any]:
    """What stands in claims.json; docs/claims.md describes it."""
    flags = (["--quick"] if scale.quick else []) + ([f"--workers={scale.workers}"] if scale.workers else [])
    made = (each.target for outcome in outcomes for each in outcome.points[:1] if each.target.exists())
    machine = Run(first).attrs if (first := next(made, None)) else {}
    return {
        "outpace": VERSION,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": {"cpu": machine.get("cpu_model", provenance.cpu_model()), "cores": provenance.usable_cores()},
        "quick": scale.quick,
        "workers": scale.workers,
        "level": LEVEL,
        "claims": [_entry(outcome, [*flags, "-o", str(folder)]) for outcome in outcomes],
    }


def _entry(outcome: Outcome, flags: Sequence[str]) -> dict[str, Any]:
    claim, found = outcome.claim, outcome.measured
    return {
        "id": claim.id,
        "group": claim.group,
        "source": claim.source,
        "claim": claim.sentence,
        "kind": str(claim.kind),
        "scale": claim.scale,
        "verdict": str(outcome.verdict),
        "reason": outcome.reason,
        "threshold": {
            "least": _number(claim.threshold.least),
            "most": _number(claim.threshold.most),
            "reason": claim.threshold.reason,
            "grade": str(claim.grade),
        },
        "estimator": claim.estimator,
        "value": _number(found.value) if found else None,
        "interval": [_number(end) for end in found.interval] if found else None,
        "values": [_number(value) for value in found.values] if found else [],
        "command": shlex.join(["outpace", "claims", claim.id, *flags]),
        "traces": [str(each.target) for each in outcome.points if each.target.exists()],
    }


def _number(value: float) -> float | None:
    """JSON has no infinities."""
    return value if math.isfinite(value) else None


def _figures(outcome: Outcome) -> list[tuple[str, bytes]]:
    """(file name, PNG) of the numbers beside their threshold, and of the figure over the traces that the claim names;
    without the latter where its runs do not belong in one figure."""
    drawn = [(f"{outcome.claim.id}.png", _strip(outcome))]
    if outcome.claim.figure:
        try:
            figure = figures.compose(outcome.claim.figure, [Run(each.target) for each in outcome.points])
            drawn.append((f"{outcome.claim.id}-{outcome.claim.figure}.png", png(figure, DPI)))
        except UserError as error:
            print(f"{outcome.claim.id}: no figure {outcome.claim.figure}: {error}")
    return drawn


def _strip(outcome: Outcome) -> bytes:
    """The repetitions, the median with its interval, and the threshold as a band."""
    assert outcome.measured
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, HEIGHT / 2), layout="constrained")
        axes = figure.subplots()
        values = [value for value in outcome.measured.values if math.isfinite(value)]
        ends = [end for end in (outcome.claim.threshold.least, outcome.claim.threshold.most) if math.isfinite(end)]
        room = 0.15 * (max(values + ends) - min(values + ends)) or abs(ends[0]) * 0.1 or 1.0
        left, right = min(values + ends) - room, max(values + ends) + room
        band = max(left, outcome.claim.threshold.least), min(right, outcome.claim.threshold.most)
        axes.axvspan(*band, alpha=0.3, color="0.6", linewidth=2)  # a line where it is one number
        axes.plot(values, [0.0] * len(values), "o", color="0.3", markersize=4)
        low, high = outcome.measured.interval
        if math.isfinite(low) and math.isfinite(high):
            color = COLOURS[outcome.verdict]
            axes.plot([low, high], [0.5, 0.5], color=color, linewidth=2)
            axes.plot([outcome.measured.value], [0.5], "D", color=color)
        axes.set_xlim(left, right)
        axes.set_ylim(-0.5, 1)
        axes.set_yticks([])
        axes.set_xlabel("grey: the threshold; dots: launches; diamond: median, 95 %")
        return png(figure, DPI)
