"""A real Slurm of four nodes on this host: daemons of our own, on private ports, under one folder."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs import LIMIT_S

from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.manifest import Sweep
from outpace.benchmarks.sweeps.point import standing

OUTPACE: Final = Path(sys.executable).parent / "outpace"

NEEDED: Final = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NODES: Final = 4
CORES: Final = 4  # of a node, whatever the host has: compute time is slept
START_S: Final = 30

# cred_expire: a requeued job starts after 16 s instead of 121. SlurmdTimeout: a lost node is noticed after 10 s.
CONFIGURATION: Final = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
MpiDefault=none
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SlurmdTimeout=10
SchedulerParameters=sched_interval=5,bf_interval=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/d-%n.pid
SlurmdLogFile={folder}/d-%n.log
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing() -> str:
    """What this host lacks for a Slurm of its own, or nothing."""
    return ", ".join(name for name in NEEDED if not _find(name))


class Cluster:
    """Starts with the object; `stop` ends every daemon by its process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + NODES)
        nodes = [
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CORES} RealMemory=2000"
            for i, port in enumerate(ports[1:])
        ]
        for name in ("state", *(f"spool-n{i}" for i in range(NODES))):
            (folder / name).mkdir()
        user = _output(["id", "-un"])
        text = CONFIGURATION.format(host=host, user=user, ports=ports, folder=folder, nodes="\n".join(nodes))
        (folder / "slurm.conf").write_text(text)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file")]
        munged = ["--foreground", "--force", f"--key-file={key}", f"--seed-file={folder}/munge.seed", *files]
        try:
            self._start("munged", *munged)
            self.until((folder / "munge.socket").exists, START_S)
            self._start("slurmctld", "-D")
            for i in range(NODES):
                self.start_node(f"n{i}")
            self.until(lambda: self.call("sinfo", "-h", "-o", "%t %D") == f"idle {NODES}", START_S)
        except BaseException:
            self.stop()
            raise

    def start_node(self, name: str) -> None:
        self._start(f"slurmd {name}", "-D", "-N", name)

    def lose_node(self, name: str) -> None:
        """As by a power cut: the node's daemon and all that it runs are killed at once."""
        daemon = self._daemons.pop(f"slurmd {name}")
        daemon.kill()
        self._kill_all_on(name)
        daemon.wait()

    def stop(self) -> None:
        for name in reversed(self._daemons):
            if name.startswith("slurmd "):
                self._kill_all_on(name.partition(" ")[2])
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def call(self, *words: object, cwd: Path | None = None, check: bool = True, **environment: str) -> str:
        """The output of a command of this Slurm; with `check` off also that of one that fails, errors included."""
        line = [str(word) for word in words]
        env = os.environ | self.environment | environment
        done = subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return (done.stdout + ("" if check else done.stderr)).strip()

    def until(self, condition: Callable[[], object], seconds: float, told: Callable[[], str] | None = None) -> None:
        """Wait for the condition. AssertionError with what is told, or the daemons' logs, where it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (told or self.logs)()
            time.sleep(0.25)

    def logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def _kill_all_on(self, node: str) -> None:
        """Everything that runs on a node of this Slurm, the managers of its job steps first."""
        here = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.folder}/slurm.conf".encode()}
        running = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if here <= set((path / "environ").read_bytes().split(b"\0")):
                    running.append(int(path.name))
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                        running.insert(0, parent)
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start(self, name: str, *arguments: str) -> None:
        program = _find(name.partition(" ")[0])
        assert program
        with open(self.folder / f"{name.replace(' ', '-')}.out.log", "ab") as out:
            # pdeathsig: however these tests end, no daemon outlives them
            line = ["setpriv", "--pdeathsig", "TERM", program, *arguments]
            env = os.environ | self.environment
            self._daemons[name] = subprocess.Popen(line, env=env, stdout=out, stderr=out, start_new_session=True)


@dataclass
class SlurmSweep:
    """A sweep in a folder of its own, submitted by `outpace sweep --slurm` unless a test does it another way."""

    cluster: Cluster
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "sweep.toml"

    def outpace(self, *words: object) -> str:
        return self.call(OUTPACE, *words)

    def call(self, *words: object, check: bool = True, **environment: str) -> str:
        """A command of this Slurm, run in the folder by somebody who has activated the environment."""
        path = f"{OUTPACE.parent}:{os.environ['PATH']}"
        return self.cluster.call(*words, cwd=self.folder, check=check, PATH=path, **environment)

    def submit(self) -> list[str]:
        """Submit the sweep; the ids of the arrays."""
        said = self.outpace("sweep", self.file, "--slurm").splitlines()
        return [line.split()[1].rstrip(":") for line in said if line.startswith("job ")]

    def sweep(self) -> Sweep:
        return load(self.file, self.folder / "runs")

    def states(self) -> list[str]:
        return [standing(point).state for point in self.sweep().points]

    def attempts(self) -> dict[str, int]:
        """How often each point was run, by its log."""
        return {
            path.stem: sum(" UTC, " in line for line in path.read_text().splitlines())
            for path in (self.folder / "runs").glob("*.log")
        }

    def told(self) -> str:
        """Everything that a failing test wants to know."""
        files = [*self.folder.glob("runs/*.log"), *self.folder.glob("runs/slurm/*.out"), *self.folder.glob("*.out")]
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in files) + self.cluster.call("squeue")

    def until_done(self, seconds: float) -> None:
        """Wait until every point is done and the queue has no job of this sweep left."""
        self.cluster.until(lambda: set(self.states()) == {"done"}, seconds, self.told)

    def until_written(self, name: str, text: str, seconds: float) -> None:
        """Wait until a file of the folder has the text; the file itself may be long in coming: its job waits."""
        path = self.folder / name
        self.cluster.until(lambda: path.exists() and text in path.read_text(), seconds, self.told)

    def until_running(self, seconds: float = 30) -> None:
        """Wait until the timed part of every point has begun."""
        points = self.sweep().points

        def begun() -> bool:
            parts = [point.target.with_name(f"{point.target.name}.part-{point.ranks - 1}") for point in points]
            return all(part.exists() and b"started_s" in part.read_bytes() for part in parts)

        self.cluster.until(begun, seconds, self.told)


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _output(line: Sequence[str]) -> str:
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
