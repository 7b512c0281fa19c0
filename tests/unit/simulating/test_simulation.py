"""Runs in simulated time, from flags to trace."""

import cProfile
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from own_programs import HEAD, TAIL

from outpace.benchmarks.running.storage import Unwritten
from outpace.benchmarks.simulating.__main__ import main
from outpace.benchmarks.simulating.spilled import Spilled
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.run import Run
from outpace.comm import machines

GRAPHS = {"ad_psgd": ["--topology=exponential"]}  # bipartite at any even n, and of few hops
QUADRATIC = "--problem=quadratic:dim=10,sigma=0.3"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def simulated(program: str, ranks: int, *flags: str, out: str = "run.h5") -> Run:
    module = program if program.endswith(".py") else f"outpace.algorithms.{program}"
    words = [module, str(ranks), "--simulate=10gbit", QUADRATIC, "--compute-time=0.1", f"--out={out}", *flags]
    assert main(words) == 0
    return validate(Path(out))


def test_a_run_is_an_ordinary_trace() -> None:
    run = simulated("d_psgd", 4, "--epochs=2", "--batch-size=8")
    steps = 2 * 1024 // (4 * 8)
    assert (run.attrs["claim_class"], run.attrs["status"]) == ("simulated", "complete")
    assert len(run.column("steps", "step")) == 4 * steps
    assert run.attrs["wall_s"] == pytest.approx(0.1 * steps, rel=0.01)
    assert run.column("steps", "compute_s") == pytest.approx(0.1)
    assert run.improved()
    assert machines.parse(run.attrs["machine"]) == machines.read("10gbit")
    assert json.loads(run.attrs["stated_error"]) == {}
    sent = 4 * 10 * 2  # bytes of a float32 model, to each of two neighbours
    assert run.column("events", "nbytes").sum() == 4 * steps * sent
    assert run.attrs["command"].startswith("outpace run d_psgd -n 4 --simulate=10gbit")


@pytest.mark.parametrize("program", ["ad_psgd", "a_psgd", "allreduce_sgd"])
def test_one_seed_makes_one_trace(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, with everything that is drawn: batches, delays, peers, jitter."""
    traces = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        simulated(program, 4, "--epochs=1", "--stragglers=lognormal:sigma=0.5", "--links=all:rate=1gbit")
        traces.append(Path("run.h5").read_bytes())
    assert traces[0] == traces[1]
    simulated(
        program,
        4,
        "--epochs=1",
        "--stragglers=lognormal:sigma=0.5",
        "--links=all:rate=1gbit",
        "--seed=1",
        "--overwrite",
    )
    assert Path("run.h5").read_bytes() != traces[0]


@pytest.mark.parametrize("n", [8, *(pytest.param(n, marks=pytest.mark.long) for n in (64, 128, 512))])
def test_one_worker_ten_times_slower(n: int) -> None:
    """AD-PSGD keeps (n - 1 + 1/10) / n of its rate, AllReduce a tenth."""
    kept = {}
    seconds = 10.05 if n < 100 else 2.05  # ten times that is a whole number of slow steps, and a half
    for program in ("ad_psgd", "allreduce_sgd"):
        made = []
        for factor in (1, 10):
            flags = f"--stragglers=fixed:rank=3,factor={factor}", f"--time-budget={seconds}", "--evaluations=1"
            run = simulated(program, n, *flags, *GRAPHS.get(program, ()), out=f"{program}-{factor}.h5")
            made.append((run.column("steps", "t_s") <= seconds).sum())
        kept[program] = made[1] / made[0]
    assert kept["ad_psgd"] == pytest.approx((n - 1 + 0.1) / n, rel=0.005)
    assert kept["allreduce_sgd"] == pytest.approx(0.1, rel=0.02)


@pytest.mark.long
def test_a_gradient_costs_no_more_among_many() -> None:
    """By calls of functions, which a busy machine does not change."""
    calls = []
    for n in (32, 128):
        totals = []
        for steps in (1, 2, 4):  # the first finds what is then known of the graph
            profile = cProfile.Profile()
            flags = "--topology=ring", f"--epochs={n * steps * 16 / 1024}"
            profile.runcall(simulated, "ad_psgd", n, *flags, out=f"{n}-{steps}.h5")
            totals.append(sum(entry.callcount for entry in profile.getstats()))
        calls.append((totals[2] - totals[1]) / (2 * n))
    assert calls[1] == pytest.approx(calls[0], rel=0.1)


def test_messages_count_as_if_the_model_were_larger() -> None:
    """1 GB through links of 1 Gbit/s takes an AllReduce of four 12 s at least, and the mathematics does not change."""
    flags = "--epochs=0.25", "--batch-size=16"
    small = simulated("allreduce_sgd", 4, *flags, out="small.h5")
    large = simulated("allreduce_sgd", 4, *flags, "--wire-bytes=1e9", "--links=all:rate=1gbit", out="large.h5")
    steps = len(small.column("steps", "step")) / 4
    assert 12 < large.attrs["wall_s"] / steps < 15
    assert large.column("evaluations", "loss").tolist() == small.column("evaluations", "loss").tolist()


def test_servers_and_their_links() -> None:
    """A server of 4 workers whose link takes a second for each model, either way: the rate is that of the link."""
    run = simulated(
        "a_psgd", 5, "--time-budget=100", "--wire-bytes=1.2e8", "--links=fixed:rank=4,rate=1gbit", "--compute-time=0.1"
    )
    assert len(run.column("steps", "step")) == pytest.approx(100, rel=0.15)


def test_the_rate_of_a_server_ends_at_its_link() -> None:
    """A link of 1 Gbit/s takes 120 models of 1 MB a second each way. Of n workers that share both ways, as in a closed
    network of two queues, some are always at the other way: the rate is n / (n + 1) of that. Without the link eight
    workers would make 800 gradients a second."""
    link = 1e9 / 8 * 1448 / 1514 / 1e6  # the share of payload
    rates = []
    for n in (8, 16):
        flags = "--wire-bytes=1e6", f"--links=fixed:rank={n},rate=1gbit", "--compute-time=0.01", "--evaluations=1"
        rates.append(simulated("a_psgd", n + 1, "--time-budget=4", *flags, out=f"{n}.h5").steps_per_s())
    assert rates == pytest.approx([link * 8 / 9, link * 16 / 17], rel=0.06)


def test_snapshots_take_no_memory() -> None:
    """100 more of 2 workers' models of 80 kB would be 16 MB."""
    peaks = []
    for evaluations in (30, 130):
        tracemalloc.start()
        flags = "--epochs=4.2", "--problem=quadratic:dim=20000", f"--evaluations={evaluations}"
        run = simulated("d_psgd", 2, *flags, out=f"{evaluations}.h5")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(run.column("evaluations", "loss")) >= evaluations
    assert peaks[1] - peaks[0] < 10e6


def test_a_disk_that_is_full_is_told_in_a_line() -> None:
    with (
        open("/dev/full", "r+b", buffering=0) as file,
        pytest.raises(Unwritten, match="snapshots cannot be written: No space left"),
    ):
        Spilled(file, 0, 3, np.dtype("f4"))[1] = np.ones(3, "f4")


REFUSED = {
    "no machine": (["--simulate=1gbyte"], "1gbyte"),
    "no compute time": (["--simulate=10gbit"], "--compute-time SECONDS"),
    "checkpoints": (["--simulate=10gbit", "--compute-time=1", "--checkpoint-every=1"], "--checkpoint-every is of real"),
    "a device": (["--simulate=10gbit", "--compute-time=1", "--backend=cupy"], "--backend cupy is of real runs"),
    "memory": (["--simulate=10gbit", "--compute-time=1", "--problem=quadratic:dim=1000000000"], "of memory"),
}


@pytest.mark.parametrize(("flags", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_simulated_is_refused_in_a_line(
    flags: list[str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["outpace.algorithms.d_psgd", "64", QUADRATIC, "--out=run.h5", *flags]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert line in error
    assert list(Path().iterdir()) == []


OWN = f"""{HEAD}

def run(comm, problem, cfg, budget, trace):
    x = problem.x0()
    for k in budget:
        {{body}}
        trace.record()
    return x

{TAIL}"""


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            "comm.Recv(x, (comm.rank + 1) % 2, 5) if comm.rank < 2 else None",
            "rank 0 waits for a message of rank 1 with tag 5",
        ),
        ("comm.Reduce_scatter(x, x)", "Reduce_scatter of a communicator is not simulated"),
    ],
    ids=["a message that nobody sends", "a method that there is not"],
)
def test_a_program_that_cannot_go_on_ends_with_a_line(body: str, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(OWN.format(body=body))
    words = ["own.py", "3", "--simulate=10gbit", QUADRATIC, "--compute-time=0.1", "--out=run.h5"]
    assert main(words) == 2
    error = capfd.readouterr().err
    assert error.startswith("own: ")
    assert error.count("\n") == 1
    assert line in error
    assert {path.name for path in Path().iterdir()} <= {"own.py", "__pycache__"}
