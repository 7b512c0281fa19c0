"""Ranks behind slow links: each in a network namespace of its own, joined to the others by a switch of the kernel's.

The line of `inside` stands before the launcher's. What it starts lives in a process and a mount namespace as well: all
of it is killed with the first process in there, which is killed with its parent, and the kernel takes the links away
with the last one. So there is nothing to clean up, however a job ends. Token buckets give each rank's link its rate, at
both of its ends; the switch has no limit of its own. What links there can be is in `links`.

Needs root, the commands unshare and setpriv (util-linux), ip and tc (iproute2), a kernel with veth, bridge and tbf, and
Hydra, which is MPICH's mpiexec: it lets us say how a rank is reached.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from outpace.benchmarks.machine import guardian, links, transport
from outpace.benchmarks.machine.links import Links
from outpace.benchmarks.machine.mpiexec import HYDRA_CHOICES, is_hydra, mpiexec
from outpace.comm.errors import UserError

BURST_S: Final = 1e-3  # of the rate: what an idle link lets through at once; with half of it, TCP did not fill one
LEAST_BURST: Final = 16_000  # bytes; a bucket must hold a packet with all headers
QUEUE_S: Final = 0.1  # of the rate: what waits at a link before packets are dropped
COMMANDS: Final = {"setpriv": "util-linux", "unshare": "util-linux", "ip": "iproute2", "tc": "iproute2"}
NAMESPACES: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"),
)
VARIABLE: Final = "OUTPACE_LINKS"  # tells the ranks their SPEC
SWITCH: Final = "10.0.0.254"  # nothing leaves the namespaces, so any addresses will do
GUARDIAN: Final = "/run/netns/guardian"  # its socket; ranks see no abstract name of another network namespace
# Every rank is a host of its own to Hydra, which reaches it by this in place of ssh: options, host, command. Proxies
# fail when a rank on another host is killed; by that Hydra would end, without a word of the rank.
REACH: Final = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
rank=rank${1##*.}
shift
ip netns exec "$rank" sh -c "$*"
exit 0
"""


def inside(text: str, ranks: int) -> list[str]:
    """The line to put before the launcher's, whose `ranks` ranks then are behind links of this SPEC; none for `none`.

    Raises UserError where that cannot be: for a bad SPEC, and where what the module needs is missing.
    """
    links.check_ranks(links.parse(text), ranks)
    text = links.canonical(text)
    if text == "none":
        return []
    if os.geteuid():
        raise UserError("--links needs root, which may make network namespaces")
    launcher = mpiexec()
    if not is_hydra(launcher[0]):
        raise UserError(f"--links needs Hydra, the mpiexec of MPICH, to start ranks; {launcher[0]} is another launcher")
    if told := HYDRA_CHOICES & {*launcher}:
        raise UserError(f"--links makes hosts of its own, and OUTPACE_LAUNCHER has {', '.join(sorted(told))}")
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if nodes != "1":
        raise UserError(f"--links makes hosts of its own on this one, and this Slurm job has {nodes} nodes")
    for command, package in COMMANDS.items():
        if not shutil.which(command):
            raise UserError(f"--links needs the command {command}, of {package}")
    _do(" ".join((*NAMESPACES, "true")))  # which a container may forbid
    return [*NAMESPACES, sys.executable, "-m", __name__, text, str(ranks)]


def check_behind(text: str) -> None:
    """Raise UserError unless this rank is behind the links of this SPEC, its defaults written out."""
    here = os.environ.get(VARIABLE, "none")
    if text != here:
        raise UserError(f"--links is {text}, and the ranks are behind {here}: start them by `outpace run`")


def set_up(spec: Links, ranks: int) -> list[str]:
    """Make switch and links in the namespaces of this process; the ranks' addresses. Raises UserError."""
    # `ip netns` keeps names as mounts in this folder: a new one, which nobody outside sees.
    _do("mkdir -p /run/netns")
    _do("mount -t tmpfs outpace /run/netns")
    _do("ip link set lo up")
    _do("ip link add switch type bridge")
    _do(f"ip address add {SWITCH}/24 dev switch")
    _do("ip link set switch up")
    addresses = [f"10.0.0.{rank + 1}" for rank in range(ranks)]
    for rank, address in enumerate(addresses):
        name, port = f"rank{rank + 1}", f"port{rank + 1}"
        _do(f"ip netns add {name}")
        _do(f"ip link add {port} type veth peer name eth0 netns {name}")
        _do(f"ip link set {port} master switch up")
        _do(f"ip -n {name} link set lo up")
        _do(f"ip -n {name} address add {address}/24 dev eth0")
        _do(f"ip -n {name} link set eth0 up")
        rate = spec.of_rank(rank)
        if rate is not None:
            _do(f"tc qdisc add dev {port} root {bucket(rate)}")
            _do(f"tc -n {name} qdisc add dev eth0 root {bucket(rate)}")
    return addresses


def bucket(rate: float) -> str:
    """A token bucket of so many bits per second, as tc writes it."""
    bytes_per_s = rate / 8
    burst = max(LEAST_BURST, BURST_S * bytes_per_s)
    return f"tbf rate {rate:.0f}bit burst {burst:.0f} limit {burst + QUEUE_S * bytes_per_s:.0f}"


def lift(ranks: int) -> None:
    """Take the limits off all links of the job that this rank is in. Where that fails they stay, and cost time only."""
    for rank in range(1, ranks + 1):
        _run(f"tc -n rank{rank} qdisc del dev eth0 root")
        _run(f"nsenter --target 1 --net tc qdisc del dev port{rank} root")  # where the first process is the switch is


def _do(line: str) -> None:
    code, out, err = _run(line)
    if code:
        raise UserError(f"--links: `{line}`: {' '.join((err or out).split())}")


def _run(line: str) -> tuple[int, str, str]:
    done = subprocess.run(line.split(), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def reach_by(launcher: list[str], addresses: list[str]) -> list[str]:
    """Hydra's line with the ranks on these hosts; every host is reached by the script REACH."""
    script = Path("/run/netns/reach")  # in our own file system, which goes with us
    script.write_text(REACH)
    script.chmod(0o755)
    hosts = ["-launcher", "ssh", "-launcher-exec", str(script), "-iface", "switch", "-hosts", ",".join(addresses)]
    return [launcher[0], *hosts, "-ppn", "1", *launcher[1:]]


def _give_address() -> None:
    """Have the guardian's socket, which is our input, listen where ranks find it."""
    with socket.socket(fileno=os.dup(0)) as listener, open(os.devnull) as nothing:
        listener.bind(GUARDIAN)
        listener.listen(links.MOST_RANKS)
        os.dup2(nothing.fileno(), 0)


def main() -> None:
    """The first process in the namespaces: SPEC RANKS and the launcher's line, which it starts."""
    text, ranks, *line = sys.argv[1:]
    try:
        line = reach_by(line, set_up(links.parse(text), int(ranks)))
    except UserError as error:
        print(f"outpace: {error}", file=sys.stderr)
        sys.exit(2)
    if guardian.SOCKET in os.environ:
        _give_address()
        os.environ[guardian.SOCKET] = GUARDIAN
    # Whatever the user has chosen: UCX sees that all ranks are on one machine, and would go past the links.
    os.environ |= {VARIABLE: text, **transport.LIBFABRIC_TCP}
    # The first process in here inherits orphans, and Hydra would take a killed rank for one of its proxies.
    os.execvp("sh", ["sh", "-c", '"$@"; exit $?', "sh", *line])


if __name__ == "__main__":
    main()
