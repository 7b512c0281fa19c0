"""Sweeps on a real Slurm: arrays, time limits, preemption, a lost node, a second submission, a wrong launcher.

Runs have slept compute, so that many share the cores; times are mostly Slurm's own: a requeued job starts after 16 s.
"""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cluster import OUTPACE, SlurmSweep

from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.trace.run import Run

pytestmark = pytest.mark.slurm
SCRIPTS = Path(__file__).parents[2] / "jobscripts"
SBATCH = ("sbatch", "--parsable")

# Gradients of 10 ms: `epochs` of them take `epochs * 1024 / 16 / workers * 10 ms`.
QUADRATIC = """
folder = "runs"
[flags]
problem = "quadratic:dim=4,zeta=1"
evaluations = 4
compute-time = 0.01
"""


def seconds(length: float, workers: int = 2) -> str:
    """The flag that makes a run last so long."""
    return f"epochs = {length / 0.01 * 16 * workers / 1024:g}\n"


def parts_of(target: Path) -> str:
    """What rank 0 has written."""
    part = target.with_name(f"{target.name}.part-0")
    return part.read_bytes().decode(errors="replace") if part.exists() else ""


def restarts(job, array: str, task: int = 0) -> int:
    told = job.cluster.call("scontrol", "show", "job", f"{array}_{task}" if task else array)
    return int(re.search(r"Restarts=(\d+)", told)[1])


def steps_are_whole(job) -> None:
    """No gradient is lost or done twice in a run that was interrupted."""
    for point in job.sweep().points:
        run = Run(point.target)
        rank, step = run.column("steps", "rank"), run.column("steps", "step")
        for worker in range(run.attrs["n_workers"]):
            np.testing.assert_array_equal(np.sort(step[rank == worker]), np.arange((rank == worker).sum()))
        assert run.column("evaluations", "samples")[-1] == run.column("steps", "samples").sum()


@pytest.fixture(scope="module")
def limited(cluster, tmp_path_factory):
    """A run longer than its time limit of a minute, submitted first: its time passes while the other tests run."""
    job = SlurmSweep(cluster, tmp_path_factory.mktemp("limited"))
    flags = QUADRATIC + seconds(60)
    slurm = '[slurm]\ntime = 1\nsignal = "B:USR1@20"\n'
    job.file.write_text(f'programs = ["d_psgd"]\nworkers = 2\n{flags}{slurm}')
    return job, job.submit()


@pytest.fixture(scope="module", autouse=True)
def _first(limited):
    """See `limited`."""


def test_array_over_workers_stragglers_and_programs(job) -> None:
    """Two arrays of four points each end complete, and submitting again, whenever, runs nothing twice."""
    slow = '"none", "fixed:rank=0,factor=3"'
    flags = QUADRATIC + seconds(0.5) + f"stragglers = [{slow}]\n"
    job.file.write_text(f'programs = ["allreduce_sgd", "ad_psgd"]\nworkers = [2, 4]\n{flags}')
    arrays = job.submit()
    assert len(arrays) == 2
    assert job.submit() == []  # all of them wait or run
    assert "queued" in job.outpace("sweep", job.file, "--status")
    # And past the look at the queue: the same arrays once more, which find the points locked or done.
    for path in sorted((job.folder / "runs" / "slurm").glob("*.manifest")):
        ranks = re.search(r"-n (\d+)", path.read_text())[1]
        again = [
            "--array=1-4",
            f"--ntasks={ranks}",
            "--output=again-%a.out",
            SCRIPTS / "sweep.sbatch",
            path,
        ]
        job.call("sbatch", *again, OUTPACE_JOBSCRIPTS=str(SCRIPTS))
    job.until_done(90)
    job.cluster.until(lambda: "outpace-" not in job.call("squeue", "-h", "-o", "%j", "--name=outpace"), 60, job.told)
    assert job.submit() == []
    assert set(job.attempts().values()) == {1}
    assert len(job.attempts()) == 8
    runs = [Run(point.target) for point in job.sweep().points]
    assert sorted((run.attrs["algorithm"], run.attrs["n_workers"], run.attrs["stragglers"]) for run in runs) == [
        (program, n, stragglers)
        for program in ("ad_psgd", "allreduce_sgd")
        for n in (2, 4)
        for stragglers in ("fixed:rank=0,factor=3", "none")
    ]
    assert {run.attrs["status"] for run in runs} == {"complete"}


@pytest.mark.parametrize("way", ["steps", "batch"])
def test_signal_leads_to_checkpoint_requeue_and_a_whole_trace(job, way: str) -> None:
    """`scancel --signal=USR1` reaches the steps, with --batch the batch process; both have the job go on later."""
    job.file.write_text(f'programs = ["allreduce_sgd", "ad_psgd"]\nworkers = 2\n{QUADRATIC}{seconds(12)}')
    (array,) = job.submit()
    one = ["d_psgd", "--problem", "quadratic:dim=4", "--compute-time", "0.01", "--out", "one.h5"]
    one += ["--epochs", seconds(12).split()[-1]]
    alone = job.call(
        *SBATCH, "--ntasks=2", "--output=one.out", SCRIPTS / "point.sbatch", *one, OUTPACE_JOBSCRIPTS=str(SCRIPTS)
    )
    job.until_running()
    job.cluster.until(lambda: "started_s" in parts_of(job.folder / "one.h5"), 30, job.told)
    time.sleep(3)
    job.call("scancel", "--signal=USR1", *(["--batch"] if way == "batch" else []), array, alone)
    job.cluster.until(lambda: job.states() == ["partial"] * 2, 15, job.told)
    assert "goes on from its checkpoint" in job.outpace("sweep", job.file, "--status", "--verbose")
    job.until_done(60)
    assert [restarts(job, array, task) for task in (1, 2)] == [1, 1]
    assert set(job.attempts().values()) == {2}
    steps_are_whole(job)
    job.until_written("one.out", "; complete, ", 30)
    assert restarts(job, alone) == 1
    assert f"job {alone} is requeued" in (job.folder / "one.out").read_text()


def test_cancelled_job_keeps_its_checkpoint_and_is_not_requeued(job) -> None:
    """`scancel` means it: SIGTERM. The next submission goes on from the checkpoint."""
    job.file.write_text(f'programs = ["d_psgd"]\nworkers = 2\n{QUADRATIC}{seconds(8)}')
    (array,) = job.submit()
    job.until_running()
    time.sleep(3)
    job.call("scancel", array)
    job.cluster.until(lambda: job.states() == ["partial"], 15, job.told)
    job.cluster.until(lambda: not job.call("squeue", "-h", "-j", array, check=False).startswith(array), 30, job.told)
    assert job.states() == ["partial"]
    job.submit()
    job.until_done(40)
    assert "d_psgd: goes on from the checkpoint at" in job.told()
    steps_are_whole(job)


def test_lost_node_costs_its_own_point_a_requeue_and_no_other_anything(job) -> None:
    job.file.write_text(f'programs = ["allreduce_sgd", "d_psgd", "ad_psgd"]\nworkers = 2\n{QUADRATIC}{seconds(10)}')
    (array,) = job.submit()
    job.until_running(60)
    node = job.call("squeue", "-h", "-j", f"{array}_2", "-o", "%N")
    job.cluster.lose_node(node)
    try:
        job.until_done(90)
    finally:
        job.cluster.start_node(node)
    assert [restarts(job, array, task) for task in (1, 2, 3)] == [0, 1, 0]
    names = [point.target.stem for point in job.sweep().points]
    assert [job.attempts()[name] for name in names] == [1, 2, 1]
    steps_are_whole(job)
    job.cluster.until(lambda: job.call("sinfo", "-h", "-n", node, "-o", "%t") in ("idle", "mix", "alloc"), 30)


def test_scripts_by_plain_sbatch(job) -> None:
    """A user's copy of the scripts: a sweep from a job, a sweep inside one allocation, one point."""
    job.outpace("jobscripts", "jobscripts")
    file = job.file.relative_to(job.folder)
    job.file.write_text(f'programs = ["allreduce_sgd", "a_psgd"]\nworkers = [1, 2]\n{QUADRATIC}{seconds(0.2)}')
    job.call("sbatch", "--output=plain.out", "jobscripts/sweep.sbatch", file)
    one = ["ad_psgd", "--problem", "quadratic:dim=4", "--epochs", "0.5", "--out", "one.h5"]
    job.call("sbatch", "--output=one.out", "--ntasks=2", "jobscripts/point.sbatch", *one)
    job.call("sbatch", "--output=nodes.out", "--nodes=2", "jobscripts/point.sbatch", *one)
    tasks = ["--nodes=1", "--ntasks-per-node=2"]
    job.call("sbatch", "--output=steps.out", *tasks, "jobscripts/steps.sbatch", file, "--out", "steps")
    job.until_done(60)
    job.cluster.until((job.folder / "one.h5").exists, 30, job.told)
    job.until_written("steps.out", "3 done, 1 missing", 60)
    assert len(list((job.folder / "runs" / "slurm").glob("*.manifest"))) == 3  # of 1, 2 and 3 ranks
    assert Run(job.folder / "one.h5").attrs["status"] == "complete"
    assert "1 of them left out: they need more than the 2 tasks of this job" in (job.folder / "steps.out").read_text()
    job.until_written("nodes.out", "the number of tasks is not known", 30)


def test_neither_the_folder_nor_the_users_variables_change_what_is_submitted_and_seen(job) -> None:
    """A folder with what sbatch takes for a pattern, an environment that is not exported, a view of the queue that
    hides what waits: each point has one job, which runs, and writes where it should."""
    text = f'programs = ["d_psgd", "allreduce_sgd"]\nworkers = 2\n{QUADRATIC}{seconds(4)}'
    text = text.replace('"runs"', '"runs/100%A"') + '[slurm]\nexport = "NONE"\nexclusive = false\n'
    job.file.write_text(text)
    own = {
        "SQUEUE_STATES": "COMPLETED",
        "SQUEUE_NAMES": "none",
        "SBATCH_ARRAY_INX": "1-3",
        "SBATCH_OPEN_MODE": "truncate",
    }
    said = job.call(OUTPACE, "sweep", job.file, "--slurm", **own)
    (array,) = re.findall(r"job (\d+): 2 point", said)
    assert f"site file: {SCRIPTS}/site.env, as installed" in said
    assert "OverSubscribe=OK" in job.call("scontrol", "show", "job", array)
    again = job.call(OUTPACE, "sweep", job.file, "--slurm", **own)
    assert re.search(r"0 to submit", again), again
    points = load(job.file, job.folder / "runs" / "100%A").points
    job.cluster.until(lambda: all(point.target.exists() for point in points), 60, job.told)
    assert {path.name for path in (job.folder / "runs" / "100%A" / "slurm").glob("*.out")} == {
        f"{array}_1.out",
        f"{array}_2.out",
    }


def test_scripts_of_another_folder_take_the_site_file_beside_them(job) -> None:
    """By plain sbatch. A heterogeneous job is refused by one line."""
    job.outpace("jobscripts", "project/jobscripts")
    with open(job.folder / "project" / "jobscripts" / "site.env", "a") as site:
        site.write("echo adapted\n")
    job.file.write_text(f'programs = ["allreduce_sgd"]\nworkers = 2\n{QUADRATIC}{seconds(0.2)}')
    script = job.folder / "project" / "jobscripts" / "steps.sbatch"
    job.call("sbatch", "--ntasks=2", "--output=one.out", script, job.file)
    job.call("sbatch", "--ntasks=1", "--output=two.out", ":", "--ntasks=1", script, job.file, "--out", "other")
    job.until_done(60)
    job.until_written("one.out", "adapted\n", 30)
    told = "outpace: a heterogeneous Slurm job of 2 components; a run takes the ranks of one job alone"
    job.until_written("two.out", told, 60)  # only Slurm's backfill starts it


def test_a_queue_that_cannot_be_asked_is_not_empty(job) -> None:
    job.file.write_text(f'programs = ["allreduce_sgd"]\nworkers = 2\n{QUADRATIC}{seconds(0.2)}')
    job.submit()
    nobody = job.folder / "slurm.conf"
    text = (job.cluster.folder / "slurm.conf").read_text()
    nobody.write_text(re.sub("SlurmctldPort=.*", "SlurmctldPort=1\nMessageTimeout=2", text))
    said = job.call(OUTPACE, "sweep", job.file, "--slurm", check=False, SLURM_CONF=str(nobody))
    assert re.search(r"^outpace: what waits under Slurm is not known: squeue: .*", said, re.MULTILINE), said
    assert "sbatch" not in said
    job.until_done(60)


def test_launcher_that_does_not_fit_is_refused(job) -> None:
    """`srun --mpi=none` starts every rank as a world of its own."""
    program = [sys.executable, "-m", "mpi4py", "-m", "outpace.algorithms.allreduce_sgd", "--problem", "quadratic:dim=4"]
    said = job.call("srun", "--mpi=none", "-n", "2", *program, check=False, PYTHONSAFEPATH="1")
    assert "every process is alone (comm.size 1) while SLURM_STEP_NUM_TASKS says 2" in said
    job.file.write_text(f'programs = ["allreduce_sgd"]\nworkers = 2\n{QUADRATIC}{seconds(0.2)}')
    job.call(OUTPACE, "sweep", job.file, "--slurm", OUTPACE_LAUNCHER="srun --mpi=none")
    job.cluster.until(lambda: job.states() == ["failed"], 60, job.told)
    said = job.outpace("sweep", job.file, "--status")
    assert "exit code 2: allreduce_sgd: this launch has 1 rank(s), but --ranks or OUTPACE_RANKS asks for 2" in said
    # The wheel's MPI and srun do understand each other by PMI-2.
    said = job.call(OUTPACE, "sweep", job.file, "--slurm", "--retry-failed", OUTPACE_LAUNCHER="srun --mpi=pmi2")
    assert "1 to submit" in said
    job.until_done(60)


def test_asynchronous_programs_over_two_nodes(job) -> None:
    """By mpiexec and by srun, 4 workers and a server, or 6 workers, on nodes of 4 cores."""
    case = 'programs = ["a_psgd", "ad_psgd", "eamsgd"]\nworkers = [4, 6]\n'
    fewer = '[[exclude]]\nprogram = "ad_psgd"\nworkers = 4\n'
    more = '[[exclude]]\nprogram = ["a_psgd", "eamsgd"]\nworkers = 6\n'
    job.file.write_text(f"{case}{QUADRATIC}{seconds(0.2)}{fewer}{more}")
    launchers = {"hydra": f"{OUTPACE.with_name('mpiexec')}", "srun": "srun --mpi=pmi2"}
    for name, launcher in launchers.items():
        options = ["--nodes=2", "--ntasks=6", f"--output={name}.out"]
        line = [*options, SCRIPTS / "steps.sbatch", job.file, "--out", name]
        job.call("sbatch", *line, OUTPACE_JOBSCRIPTS=str(SCRIPTS), OUTPACE_LAUNCHER=launcher)
    for name, launcher in launchers.items():
        points = load(job.file, job.folder / name).points
        assert sorted(point.ranks for point in points) == [5, 5, 6]
        job.cluster.until(lambda: all(point.target.exists() for point in points), 150, job.told)  # noqa: B023
        assert {Run(point.target).attrs["status"] for point in points} == {"complete"}
        said = job.call("salloc", "-Q", "--nodes=2", OUTPACE, "doctor", "--nodes", OUTPACE_LAUNCHER=launcher)
        assert "2 rank(s) in one world, on 2 node(s)" in said


def test_asynchronous_run_without_a_transport_is_refused(job) -> None:
    """Started past `outpace run`, the wheel's MPI takes UCX, which loses messages: one line, and 2 from every rank."""
    program = [sys.executable, "-m", "mpi4py", "-m", "outpace.algorithms.a_psgd", "--problem", "quadratic:dim=4"]
    line = ["srun", "--mpi=pmi2", "--nodes=2", "--ntasks=5", *program]
    said = job.call(*line, check=False, PYTHONSAFEPATH="1")
    remedy = "; set MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp, as `outpace run` does"
    assert [line.endswith(remedy) for line in said.splitlines() if line.startswith("a_psgd: ")] == [True]
    ended = re.findall(r"tasks? ([\d,-]+): Exited with exit code 2", said)
    assert sorted(task for each in ended for task in tasks(each)) == [0, 1, 2, 3, 4]


def test_a_claim_is_judged_by_the_runs_of_jobs(job) -> None:
    """`outpace claims ID --slurm` submits its experiment as jobs, says what is not there yet, and later judges it."""
    line = ("claims", "vote-32-times-less", "--quick", "--slurm", "-o", job.folder / "claims")

    def verdict() -> str:
        job.outpace(*line)
        (claim,) = json.loads((job.folder / "claims" / "claims.json").read_text())["claims"]
        return str(claim["verdict"])

    assert verdict() == "cannot be tested now"
    job.cluster.until(lambda: verdict() == "holds", 90, job.told)
    traces = (job.folder / "claims" / "traces").glob("*.h5")
    assert all(Run(path).attrs["status"] == "complete" for path in traces)


def tasks(text: str) -> list[int]:
    """The tasks that Slurm means by `0-2,4`."""
    ranges = [part.partition("-") for part in text.split(",")]
    return [task for first, _, last in ranges for task in range(int(first), int(last or first) + 1)]


def test_time_limit_leads_to_checkpoint_requeue_and_a_whole_trace(limited) -> None:
    job, (array,) = limited
    job.until_done(200)
    assert restarts(job, array, 1) >= 1
    assert set(job.attempts().values()) == {restarts(job, array, 1) + 1}
    steps_are_whole(job)
    assert Run(job.sweep().points[0].target).attrs["status"] == "complete"


SITE = """
partition = {"name": "debug", "scheduler": "squeue", "launcher": "mpirun", "environs": ["builtin"]}
site_configuration = {"systems": [{"name": "here", "hostnames": [".*"], "partitions": [partition]}]}
"""


def test_reframe_runs_the_check(job) -> None:
    """Two of its programs, through Slurm; a site's tool finds what they print and show."""
    reframe = OUTPACE.with_name("reframe")
    if not reframe.exists():
        pytest.skip("reframe is not installed; `make slurm` installs it")
    (job.folder / "site.py").write_text(SITE)
    check = ["-c", SCRIPTS / "outpace_check.py", "-n", "OutPace.*=(ad_psgd|a_psgd)"]
    said = job.call(
        reframe, "-C", "site.py", *check, "-S", "num_tasks=2", "-r", "--nocolor", RFM_PREFIX=str(job.folder)
    )
    assert "Ran 2/2 test case(s) from 2 check(s) (0 failure(s)" in said
    assert len(re.findall(r"P: rate: \d[\d.]* samples/s", said)) == 2
