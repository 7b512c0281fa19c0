"""One page about some runs, behind `outpace report`: what ran where, the figures they allow, who was slow and why.

Everything is in the file itself, figures included, so that it can be sent and kept; it asks for nothing from elsewhere.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np

from outpace.benchmarks import figures
from outpace.benchmarks.explaining import explain, words
from outpace.benchmarks.figures.page import png
from outpace.benchmarks.trace.files import output
from outpace.benchmarks.trace.run import Run, load
from outpace.benchmarks.trace.selection import chosen
from outpace.comm.errors import UserError

DPI: Final = 200
SHOWN_DPI: Final = 110  # of a screen, for which text of 8 pt is enlarged a little
MOST_EXPLAINED: Final = 24  # runs; a page of a large sweep would have no end
MACHINE: Final = ("cpu_model", "cores", "gpu", "mpi_library", "outpace_version", "git_commit", "python_version")


def write(paths: Iterable[str | Path], out: Path, where: Sequence[str] = ()) -> Path:
    """Write the page about the traces at `paths` that meet the conditions `NAME=VALUE`; its name. Raises UserError for
    a trace that cannot be read, and where `out` cannot be written."""
    runs = chosen(load(paths), where)
    if not runs:
        raise UserError("report: no trace given")
    drawn, left_out = _figures(runs)
    rows = [_row(run) for run in runs]
    page = _template().render(
        title=", ".join(dict.fromkeys(run.title for run in runs)),
        machines=list(dict.fromkeys(map(_machine, runs))),
        columns=list(rows[0]),
        rows=[list(row.values()) for row in rows],
        figures=drawn,
        left_out=left_out,
        explained=[_explained(run) for run in runs[:MOST_EXPLAINED]],
        commands=[run.attrs.get("command", f"{run.path}: its command is not recorded") for run in runs],
    )
    with output(out) as file:
        file.write(page.encode())
    return out


def _template() -> jinja2.Template:
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    jinja = jinja2.Environment(loader=here, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    jinja.globals["is_number"] = _is_number
    return jinja.get_template("report.html.jinja")


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell in ("", "-")


def _machine(run: Run) -> str:
    """Where it ran, and by which software, in a line without the name of a host."""
    known = {name.replace("_", " "): run.attrs.get(name, "none") for name in MACHINE}
    told = "; ".join(f"{name} {value}" for name, value in known.items() if value != "none")
    return told or "Where these runs were made is not recorded."


def _row(run: Run) -> dict[str, str]:
    steps = len(run.column("steps", "t_s")) if run.has("steps", "t_s") else 0
    loss = run.column("evaluations", "loss") if run.has("evaluations", "loss") else np.empty(0)
    return {
        "trace": run.path.name,
        "program": run.name,
        "workers": str(run.attrs["n_workers"]),
        "problem": run.attrs["problem"],
        "stragglers": run.attrs["stragglers"],
        "links": run.links,
        "class": run.attrs["claim_class"],
        "status": run.attrs["status"],
        "seed": str(run.attrs["seed"]),
        "gradients": str(steps),
        "s": f"{run.attrs['wall_s']:.3g}" if "wall_s" in run.attrs else "-",
        "samples/s": f"{run.samples_per_s():.0f}" if steps and run.improved() else "-",
        "final loss": f"{loss[-1]:.4g}" if len(loss) else "-",
    }


def _figures(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Every figure that these runs allow, as a picture, and why not the others."""
    drawn, left_out = [], []
    for name in figures.FIGURES:
        try:
            figure = figures.compose(name, runs)
        except UserError as error:
            left_out.append((name, str(error)))
            continue
        image = base64.b64encode(png(figure, DPI)).decode()
        width = round(SHOWN_DPI * figure.get_figwidth())
        drawn.append({"name": name, "about": figures.in_a_line(name), "width": width, "image": image})
    return drawn, left_out


def _explained(run: Run) -> dict[str, Any]:
    about: dict[str, Any] = {"file": run.path.name, "refused": ""}
    try:
        explained = explain(run.path)
    except UserError as error:
        return about | {"refused": str(error)}
    about |= {"headline": words.headline(explained), "blame": words.blame(explained)}
    return about | {"tables": list(words.tables(explained)), "progress": words.progress(explained)}
