"""The `outpace` command on real runs, and the traces that they leave."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from harness import shares
from jobs import LIMIT_S

from outpace.benchmarks.machine import launcher
from outpace.benchmarks.running.stragglers import Delays, parse
from outpace.benchmarks.trace import schema
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "trace-v1.h5"
FLAGS = ["--problem", "quadratic:dim=3,zeta=1", "--epochs", "0.25", "--evaluations", "2", "--compute-time", "0.002"]


def outpace(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [str(Path(sys.executable).parent / "outpace"), *map(str, words)]
    variables = dict(os.environ) | environment
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, env=variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run of each program."""
    folder = tmp_path_factory.mktemp("runs")
    for program in ("allreduce_sgd", "d_psgd", "ad_psgd"):
        done = outpace("run", program, "-n", 2, *FLAGS, "--out", f"{program}.h5", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[0].endswith(f"--out {program}.h5")  # the command line, first
        assert f"wrote {program}.h5" in done.stdout
    return folder


def structure(path: Path) -> dict[str, tuple[str, int, str]]:
    """The dtype, number of axes and units of every dataset that all traces have, and every root attribute's type.

    Scales that only count are dimensions without numbers today, which netCDF gives another dtype.
    """
    optional = {
        f"{group}/{name}" for group, columns in schema.GROUPS.items() for name in columns if columns[name].optional
    }
    found: dict[str, tuple[str, int, str]] = {}
    with h5py.File(path) as file:
        for name, value in file.attrs.items():
            if name in schema.OPTIONAL_ATTRIBUTES:
                continue
            found[f"@{name}"] = (type(value).__name__, np.ndim(value), "")

        def note(name: str, item: object) -> None:
            group, _, column = name.partition("/")
            if isinstance(item, h5py.Dataset) and name not in optional and group not in schema.OPTIONAL:
                counts = column in ("row", "coordinate")
                found[name] = ("" if counts else str(item.dtype), item.ndim, str(item.attrs.get("units", "")))

        file.visititems(note)
    return found


def test_schema_is_that_of_the_golden_file(folder: Path) -> None:
    """Version 1 is what this file holds, and optional columns. Any other change of the schema adds a file and a
    version, and keeps this one."""
    validate(GOLDEN)
    assert GOLDEN.stat().st_size < 45_000
    for program in ("allreduce_sgd", "d_psgd", "ad_psgd"):
        validate(folder / f"{program}.h5")
        assert structure(folder / f"{program}.h5") == structure(GOLDEN)
    golden = Run(GOLDEN)
    assert golden.attrs["schema_version"] == schema.VERSION == 1
    assert golden.attrs["algorithm"] == "ad_psgd"
    assert len(golden.column("steps", "step")) == 16
    assert golden.column("evaluations", "suboptimality")[-1] < golden.column("evaluations", "suboptimality")[0]


@pytest.mark.parametrize("program", ["allreduce_sgd", "d_psgd", "ad_psgd"])
def test_xarray_opens_every_group(folder: Path, program: str) -> None:
    path = folder / f"{program}.h5"
    with h5py.File(path) as file:
        present = set(file)
    for group, columns in schema.GROUPS.items():
        if group in schema.OPTIONAL and group not in present:
            continue
        with xarray.open_dataset(path, group=group, engine="h5netcdf") as data:
            for name, column in columns.items():
                if not column.optional:
                    assert data[name].attrs["units"] == column.units
                    assert len(data[name].dims) == 1
    with xarray.open_dataset(path, group="traffic", engine="h5netcdf") as data:
        assert data["nbytes"].dims == ("sender", "receiver")
        assert data["nbytes"].shape == (2, 2)


def test_what_a_trace_tells(folder: Path) -> None:
    """Consistency of one trace with itself: counts, times, the class of its claims."""
    run = Run(folder / "ad_psgd.h5")
    steps = {name: run.column("steps", name) for name, about in schema.GROUPS["steps"].items() if not about.optional}
    assert run.attrs["claim_class"] == "emulated"
    assert run.attrs["status"] == "complete"
    assert len(steps["step"]) == 16  # a quarter of 1024 samples in batches of 16
    assert steps["samples"].sum() == 256
    assert (np.diff(steps["t_s"]) >= 0).all()
    assert (steps["compute_s"] >= 0.002).all()
    assert run.attrs["wall_s"] == steps["t_s"].max()
    assert 0 < steps["staleness"].max() < 16
    evaluations = {
        name: run.column("evaluations", name)
        for name in ("t_s", "samples", "epoch", "consensus", "gradient_norm", "gradient_norm_1")
    }
    assert evaluations["t_s"][0] == 0
    assert evaluations["samples"][0] == 0
    assert evaluations["samples"][-1] == 256
    assert evaluations["epoch"][-1] == 0.25
    assert evaluations["consensus"][0] == 0
    ratio = evaluations["gradient_norm_1"] / evaluations["gradient_norm"]
    assert ((ratio >= 1) & (ratio <= 3**0.5)).all()  # of three coordinates
    exchanged = run.column("events", "kind") == schema.KIND["exchange"]
    assert exchanged.sum() in range(2, 2 * 16 + 1, 2)  # an event on each side
    tickets = run.column("traffic", "nbytes").sum() - run.column("events", "nbytes")[exchanged].sum()
    asks = (tickets - 48) / 64  # with an answer; the last one has none
    assert asks in range(2, (steps["rank"] == 1).sum() + 2)


def test_geometry_is_measured_at_every_evaluation_and_drawn(tmp_path: Path) -> None:
    """Two workers, all of whose noise is in one coordinate, 2 / sqrt(16) for a batch."""
    flags = ["--problem", "sparse-noise:dim=5,sigma=2", "--batch-size", 16, "--epochs", 0.01, "--geometry"]
    done = outpace("run", "allreduce_sgd", "-n", 2, *flags, "--out", "a.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    validate(tmp_path / "a.h5")
    run = Run(tmp_path / "a.h5")
    noise = {name: run.column("noise", name) for name in schema.GROUPS["noise"]}
    evaluations = len(run.column("evaluations", "t_s"))
    assert run.column("geometry", "noise_density") == pytest.approx(np.full(evaluations, 1 / 5))
    assert list(dict.fromkeys(noise["evaluation"])) == list(range(evaluations))
    assert set(noise["coordinate"]) == {0}
    assert noise["sigma"] == pytest.approx(0.5, rel=0.2)
    assert noise["share"].reshape(evaluations, -1).sum(axis=1) == pytest.approx(1)
    for figure in ("geometry", "noise"):
        assert outpace("plot", figure, "a.h5", "-o", f"{figure}.png", cwd=tmp_path).returncode == 0


def test_synchronous_runs_meet_the_same_delays(tmp_path: Path) -> None:
    """The straggler dial: seeded per rank and step, so programs are delayed alike, and by the factor that was asked."""
    expected = [
        Delays(parse("pareto:alpha=1.5"), 0, rank).seconds(step, base_s=0.002) for rank in (0, 1) for step in range(8)
    ]
    assert max(expected) > 2e-3
    for program in ("allreduce_sgd", "d_psgd"):
        flags = [*FLAGS, "--stragglers", "pareto:alpha=1.5", "--out", f"{program}.h5"]
        assert outpace("run", program, "-n", 2, *flags, cwd=tmp_path).returncode == 0
        run = Run(tmp_path / f"{program}.h5")
        order = np.lexsort((run.column("steps", "step"), run.column("steps", "rank")))
        late = run.column("steps", "injected_s")[order] - expected
        assert late.min() > -1e-9  # a sleep is never short, on a busy machine it may be long
        assert np.median(late) < 1e-3


def test_show(folder: Path, tmp_path: Path) -> None:
    done = outpace("show", folder / "ad_psgd.h5", folder / "d_psgd.h5", cwd=tmp_path)
    assert done.returncode == 0
    assert "AD-PSGD" in done.stdout
    assert "D-PSGD" in done.stdout
    assert done.stdout.count(f"zeta2 {shares(FLAGS[1], 2)[0].zeta2:.4g}") == 2
    broken = tmp_path / "broken.h5"
    shutil.copy(folder / "ad_psgd.h5", broken)
    with h5py.File(broken, "a") as file:
        del file["steps/wait_s"]
    done = outpace("show", broken, folder / "ad_psgd.h5", cwd=tmp_path)
    assert done.returncode == 1
    assert "column /steps/wait_s is missing" in done.stderr
    assert "AD-PSGD" in done.stdout  # the other one is shown all the same
    (tmp_path / "text.h5").write_text("no HDF5")
    assert outpace("show", "text.h5", cwd=tmp_path).returncode == 1
    assert outpace("show", "nowhere.h5", cwd=tmp_path).returncode == 1


def test_validate_names_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    def broken(change: object) -> None:
        path = tmp_path / "broken.h5"
        shutil.copy(folder / "ad_psgd.h5", path)
        with h5py.File(path, "a") as file:
            del file.attrs["crc32"]  # which would tell of any change before it is looked at
            change(file)  # type: ignore[operator]
        validate(path)

    def lose(file: h5py.File) -> None:
        del file.attrs["cores"]

    def misname(file: h5py.File) -> None:
        file.attrs["claim_class"] = "guessed"

    def shorten(file: h5py.File) -> None:
        del file["model/x_mean"]
        file["model/x_mean"] = np.zeros((2, 2))

    def rename_units(file: h5py.File) -> None:
        file["steps/t_s"].attrs["units"] = "ms"

    for change, said in (
        (lose, "attribute cores is missing"),
        (misname, "claim_class is 'guessed'"),
        (shorten, "/model/x_mean is 2-D"),
        (rename_units, "units 'ms'"),
    ):
        with pytest.raises(UserError, match=said):
            broken(change)


def test_plot(folder: Path, tmp_path: Path) -> None:
    assert "loss-time" in outpace("plot", cwd=tmp_path).stdout
    done = outpace("plot", "loss-time", *folder.glob("*.h5"), "-o", "loss.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.png").stat().st_size > 10_000
    assert outpace("plot", "profit", folder / "ad_psgd.h5", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("words", "said"), [(("run", "adam", "-n", "2"), "unknown program 'adam'"), (("micro", "x"), "unknown")]
)
def test_refusals(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = outpace(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_version(tmp_path: Path) -> None:
    done = outpace("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"outpace {importlib.metadata.version('outpace')}\n")


@pytest.mark.parametrize("program", ["sign_sgd", "./periodic_sgd.py"])
@pytest.mark.parametrize("flags", [("--batch", "64"), ("--seed", "first")], ids=["unknown", "no number"])
def test_the_help_that_an_error_names_is_the_programs(tmp_path: Path, program: str, flags: tuple[str, str]) -> None:
    write_periodic_sgd(tmp_path)
    done = outpace("run", program, "-n", 2, *flags, cwd=tmp_path)
    assert done.returncode == 2
    (named,) = re.findall(r"outpace (run .* --help)", done.stderr)
    done = outpace(*named.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    usage, *flags_of_the_program = done.stdout.splitlines()
    assert re.match(rf"usage: outpace run .*{Path(program).stem}(\.py)? -n RANKS ", usage)
    assert any("--batch-size" in line for line in flags_of_the_program)


@pytest.mark.parametrize(
    ("ranks", "flags", "warned"), [(2, (), True), (3, (), True), (2, ("--compute-time", "1e-4"), False), (1, (), False)]
)
def test_ranks_that_share_a_core_are_warned_of(
    tmp_path: Path, ranks: int, flags: tuple[str, ...], warned: bool
) -> None:
    """By one line, unless gradients are slept: all ranks are given the one core that `taskset` would give them."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        few = ("--problem", "quadratic:dim=2", "--epochs", "0.2", "--out", "run.h5")
        done = outpace("run", "allreduce_sgd", "-n", ranks, *few, *flags, cwd=tmp_path)
    finally:
        os.sched_setaffinity(0, everywhere)
    assert done.returncode == 0, done.stderr
    said = [f"allreduce_sgd: warning: {ranks} ranks share fewer cores, and times tell how these were shared; "]
    said[0] += "start fewer ranks, or add --compute-time SECONDS"
    heard = [
        line for line in done.stderr.splitlines()[1:] if "other processes keep" not in line
    ]  # other tests, that is
    assert heard == said * warned
    assert Run(tmp_path / "run.h5").attrs["claim_class"] == ("measured" if ranks == 1 else "emulated")


@pytest.mark.long
def test_doctor_and_micro(tmp_path: Path) -> None:
    done = outpace("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert "2 ranks in one world" in done.stdout
    for name in ("record", "step"):
        done = outpace("micro", name, cwd=tmp_path)
        assert done.returncode == 0
        assert "us per step" in done.stdout
    done = outpace("micro", "step", "--dim", 100, cwd=tmp_path)
    assert done.returncode == 0
    assert "ours / fused" in done.stdout
    done = outpace("micro", "vote", "--dim", 100, cwd=tmp_path)
    assert done.returncode == 2
    done = outpace("micro", "gossip", "-n", 3, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["outpace: gossip is measured between 2 ranks; -n is 3"]


def write_periodic_sgd(folder: Path) -> None:
    """The program of algorithms/README.md."""
    readme = Path(__file__).parents[2] / "algorithms" / "README.md"
    block, _ = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    (folder / "periodic_sgd.py").write_text(block)


def test_a_program_of_the_user(tmp_path: Path) -> None:
    """The one of algorithms/README.md: it has the flags, the delays and the meter of any program, and averages every 8
    steps."""
    write_periodic_sgd(tmp_path)
    flags = ["--problem", "quadratic:dim=1000", "--stragglers", "fixed:rank=1,factor=3", "--compute-time", "0.001"]
    line = [*launcher.mpiexec(), "-n", "2", sys.executable, "-m", "mpi4py", "periodic_sgd.py", *flags]
    done = subprocess.run(
        [*line, "--epochs", "10", "--dtype", "float64", "--out", "run.h5"],
        env=launcher.environment(2),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("periodic_sgd: loss ")
    validate(tmp_path / "run.h5")
    run = Run(tmp_path / "run.h5")
    assert run.attrs["algorithm"] == "periodic_sgd"
    steps = len(run.column("steps", "step")) // 2
    assert run.column("traffic", "nbytes")[0, 1] // (8 * 1000) == steps // 8
    injected = [run.column("steps", "injected_s")[run.column("steps", "rank") == rank] for rank in range(2)]
    assert injected[0].max() == 0 < injected[1].min()


def test_a_program_without_flags(tmp_path: Path) -> None:
    done = outpace("run", "allreduce_sgd", "-n", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (trace,) = tmp_path.glob("allreduce_sgd-*.h5")
    validate(trace)


def test_show_goes_on_after_a_damaged_file(folder: Path, tmp_path: Path) -> None:
    """The first half of a trace, then a whole one."""
    whole, damaged = folder / "d_psgd.h5", tmp_path / "damaged.h5"
    content = whole.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    done = outpace("show", damaged, whole, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{damaged}: cannot be read as HDF5" in done.stderr
    assert "Traceback" not in done.stderr
    assert "D-PSGD" in done.stdout


def test_a_race_leaves_other_files_alone(tmp_path: Path) -> None:
    """Its folder may be any. This race's first launch fails."""
    (tmp_path / "thesis.tex").write_text("years of work")
    assert outpace("race", "-o", tmp_path, cwd=tmp_path, OUTPACE_LAUNCHER="false").returncode == 1
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_launch_leaves_no_file_open() -> None:
    """A study makes dozens from one process."""
    before = os.listdir("/proc/self/fd")
    assert launcher.launch("outpace.algorithms.allreduce_sgd", 1, ["--help"]).code == 0
    assert os.listdir("/proc/self/fd") == before


def test_the_command_alone_shows_a_first_example_that_works(tmp_path: Path) -> None:
    done = outpace(cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("    outpace ")]
    assert done.returncode == 0
    assert [words[1] for words in lines] == ["run", "run", "show", "plot"]
    for _, *words in lines:
        ended = outpace(*words, *(["--epochs", 0.2] if words[0] == "run" else []), cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "loss.png").stat().st_size > 10_000


def test_help_of_a_program_has_its_flags_and_the_keys_of_specs(tmp_path: Path) -> None:
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", outpace("run", "ad_psgd", "--help", cwd=tmp_path).stdout).split())
    assert "--step-size" in said
    assert "fixed:rank=,factor=; random:p=,factor=; exponential:scale=1" in said


def test_the_printed_line_runs_in_an_empty_shell(tmp_path: Path) -> None:
    words = ["run", "allreduce_sgd", "-n", 2, *FLAGS, "--out", "a.h5"]
    unset = {name: value for name, value in os.environ.items() if name not in launcher.ENVIRONMENT}
    line = [str(Path(sys.executable).parent / "outpace"), *map(str, words)]
    first = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, env=unset)
    printed = first.stderr.splitlines()[0]
    assert printed.startswith("PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 ")
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    again = ["sh", "-c", printed.replace("a.h5", "b.h5")]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, env=bare)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "b.h5").attrs["config_id"] == Run(tmp_path / "a.h5").attrs["config_id"]


def test_what_a_run_found_at_its_start_is_recorded(folder: Path) -> None:
    """Of the load at most all cores; the tests need a C compiler."""
    for program in ("allreduce_sgd", "ad_psgd"):
        attrs = Run(folder / f"{program}.h5").attrs
        assert 0 <= attrs["load"] <= os.cpu_count() + 0.5
        assert attrs["vector_passes"] == "compiled"
