"""The main job: the three programs on real images, all workers equal and then one of them slowed.

`make run` starts it. Each program meets the same data, the same batches of every worker and the same delays.
"""

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from outpace.benchmarks import figures, reports
from outpace.benchmarks.machine import launcher
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

PROGRAMS: Final = ("allreduce_sgd", "d_psgd", "ad_psgd")
COMPUTE_TIME_S: Final = 0.005
TARGET_LOSS: Final = 0.15  # on the training images
FIGURES: Final = ("loss-time", "loss-epochs", "epoch-time", "timeline", "staleness", "consensus")


def race(folder: Path, workers: int, factor: float, epochs: float, links: str) -> int:
    """Run the six races in `folder`, over what an earlier race left there, print the table, draw the figures, write the
    page about all; the first exit code that is not 0, or 0. `links` is the SPEC of --links."""
    if workers < 2 or workers % 2:
        raise UserError(
            f"-n is {workers}; a ring of workers that AD-PSGD can use has an even number of them, at least 2"
        )
    if not factor > 1:
        raise UserError(f"--factor is {factor:g}; it must be more than 1")
    if not epochs > 0:
        raise UserError(f"--epochs is {epochs:g}; it must be more than 0")
    given = ["--links", links]
    launcher.behind(given, workers)  # or it cannot be, which is said before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    homogeneous: dict[str, Run] = {}
    slowed: dict[str, Run] = {}
    levels = [(homogeneous, "equal", "none"), (slowed, "slow", f"fixed:rank={workers - 1},factor={factor:g}")]
    total = len(levels) * len(PROGRAMS)
    for traces, level, stragglers in levels:
        for program in PROGRAMS:
            out = folder / f"{program}-{level}.h5"
            console.print(
                f"[bold]{len(homogeneous) + len(slowed) + 1} of {total}[/]: {program}, stragglers {stragglers}"
            )
            flags = ["--problem", "digits", "--compute-time", str(COMPUTE_TIME_S), "--stragglers", stragglers]
            flags += [*given, "--epochs", f"{epochs:g}", "--out", str(out), "--anew"]
            ended = launcher.launch(f"outpace.algorithms.{program}", workers, flags)
            if ended.code or ended.told:
                console.print(launcher.explain(ended, folder) or launcher.said(program, ended))
                return ended.code or 128 + ended.told
            traces[program] = Run(out)
    console.print()
    Console(width=max(100, Console().width)).print(table(homogeneous, slowed))
    files = [run.path for run in (*homogeneous.values(), *slowed.values())]
    print("\ntraces:  ", *files, sep="\n  ")
    print("figures:")
    for name in FIGURES:
        out = folder / f"{name}.png"
        asynchronous = [runs["ad_psgd"].path for runs in (homogeneous, slowed)]
        chosen = {"timeline": [run.path for run in slowed.values()], "staleness": asynchronous}.get(name, files)
        figures.draw(name, chosen, out)
        print(f"  {out}")
    print("all of it on one page:", reports.write(files, folder / "report.html"), sep="\n  ")
    return 0


def table(homogeneous: dict[str, Run], slowed: dict[str, Run]) -> Table:
    """One row per run; the slow-down is of the epoch time against the program's own homogeneous run."""
    first = homogeneous[PROGRAMS[0]].attrs
    behind = homogeneous[PROGRAMS[0]].links
    title = f"{first['problem']}, {first['n_workers']} workers, {first['claim_class']}"
    title += f", links {behind}" if behind != "none" else ""
    shown = Table(
        title=title,
        caption=f"target loss {TARGET_LOSS:g} on the training images",
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("program")
    shown.add_column("stragglers", no_wrap=True)
    for column in ("samples/s", "s to target", "accuracy", "slow-down"):
        shown.add_column(column, justify="right")
    for runs in (homogeneous, slowed):
        for program, run in runs.items():
            seconds = run.time_to_loss(TARGET_LOSS)
            shown.add_row(
                run.name,
                run.attrs["stragglers"],
                f"{run.samples_per_s():.0f}" if run.improved() else "-",
                "not reached" if seconds is None else f"{seconds:.2f}",
                f"{run.final_accuracy():.3f}",
                f"{run.epoch_time() / homogeneous[program].epoch_time():.2f}" if run.improved() else "-",
            )
        shown.add_section()
    return shown
