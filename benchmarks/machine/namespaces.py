"""Ranks behind slow links: each in a network namespace of its own, joined to the others by a switch of the kernel's.

The line of `inside` stands before the launcher's. What it starts lives in a process and a mount namespace as well: all
of it is killed with the first process in there, which is killed with its parent, and the kernel takes the links away
with the last one. So there is nothing to clean up, however a job ends. Token buckets give each rank's link its rate, at
both of its ends; the switch has no limit of its own. What links there can be is in `links`.

Needs root, the commands unshare and setpriv (util-linux), ip and tc (iproute2), a kernel with veth, bridge and tbf, for
pairs also with htb and u32, for a delay with netem, and Hydra, which is MPICH's mpiexec: it lets us say how a rank is
reached.
"""

import functools
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from outpace.benchmarks.machine import guardian, links, transport
from outpace.benchmarks.machine.links import Links, NoLinks, Shared
from outpace.benchmarks.machine.mpiexec import HYDRA_CHOICES, is_hydra, mpiexec
from outpace.comm.errors import UserError

BURST_S: Final = 1e-3  # of the rate: what an idle link lets through at once; with half of it, TCP did not fill one
LEAST_BURST: Final = 6_200  # bytes, four whole packets; with two, TCP did not fill a link of 10 Mbit/s
PACKET: Final = 1_448  # bytes in one
LARGEST: Final = 65_536  # bytes that TCP hands over as one packet
WINDOW_S: Final = 0.01  # of the rate: half of what a rank may have under way to another, which may look up that late
LEAST_WINDOW: Final = LARGEST // 2  # at 10 Mbit/s, 26 ms; both ways at once, a handshake waits behind as much
LEAST_QUEUE: Final = 4 * LARGEST  # TCP has two or three of them in a queue, and a lost one costs a slow link dearly
DELAYED: Final = 100_000  # packets under way
QUANTUM: Final = 60_000  # bytes, of a class in its turn; what htb takes for large rates, it warns of
QUEUE_S: Final = 0.1  # of the rate: what waits at a link before packets are dropped
COMMANDS: Final = {"setpriv": "util-linux", "unshare": "util-linux", "ip": "iproute2", "tc": "iproute2"}
NAMESPACES: Final = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
)  # and /proc stays that of all processes: locks name one by its id there
VARIABLE: Final = "OUTPACE_LINKS"  # tells the ranks their SPEC
SWITCH: Final = "10.0.0.254"  # nothing leaves the namespaces, so any addresses will do
CHANGES: Final = "/run/netns/changes"  # the socket of `link_changes`
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
    _try(text)
    return _line(text, ranks)


def _line(text: str, ranks: int) -> list[str]:
    return [*NAMESPACES, sys.executable, "-P", "-m", __name__, text, str(ranks)]


@functools.cache
def _try(text: str) -> None:
    """Raise UserError where the kernel has not all that such links need: two of them are set up, and end at once."""
    done = subprocess.run(_line(text, 2), capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("outpace: "))


def check_behind(text: str) -> None:
    """Raise UserError unless this rank is behind the links of this SPEC, its defaults written out."""
    here = os.environ.get(VARIABLE, "none")
    if text != here:
        raise UserError(f"--links is {text}, and the ranks are behind {here}: start them by `outpace run`")


@contextmanager
def lifted(rank: int, ranks: int) -> Iterator[None]:
    """This rank's link without limits meanwhile: for set-up and evaluation, which are not measured, and would take
    minutes. Raises UserError."""
    spec = links.parse(os.environ.get(VARIABLE, "none"))
    if not isinstance(spec, NoLinks):
        _run("tc qdisc del dev eth0 root")
        _run(f"tc -n switch qdisc del dev port{rank + 1} root")
    yield
    if not isinstance(spec, NoLinks):
        _limit(spec, rank, ranks, "tc", "tc -n switch")


def set_up(spec: Links, ranks: int) -> list[str]:
    """Make switch and links in the namespaces of this process; the ranks' addresses. Raises UserError."""
    # `ip netns` keeps names as mounts in this folder: a new one, which nobody outside sees.
    _do("mkdir -p /run/netns")
    _do("mount -t tmpfs outpace /run/netns")
    Path("/run/netns/switch").touch()
    _do("mount --bind /proc/self/ns/net /run/netns/switch")
    # MPI names its shared memory after process ids, which in here are those of any other such job.
    _do("mount -t tmpfs outpace /dev/shm")
    _do("ip link set lo up")
    _do("ip link add switch type bridge")
    _do(f"ip address add {SWITCH}/24 dev switch")
    _do("ip link set switch up")
    for rank in range(ranks):
        name, port = f"rank{rank + 1}", f"port{rank + 1}"
        _do(f"ip netns add {name}")
        _do(f"ip link add {port} type veth peer name eth0 netns {name}")
        _do(f"ip link set {port} master switch up")
        _do(f"ip -n {name} -batch -", _connect(spec, rank, ranks))
        _limit(spec, rank, ranks, f"tc -n {name}", "tc")
    return [address(rank) for rank in range(ranks)]


def _limit(spec: Links, rank: int, ranks: int, there: str, switch: str) -> None:
    """Both ends of a rank's link, by a tc in its namespace and one in that of the switch."""
    _do(f"{there} -batch -", _shape(spec, rank, ranks))
    if rate := spec.of_rank(rank):
        _do(f"{switch} qdisc add dev port{rank + 1} root {bucket(rate)}")


def address(rank: int) -> str:
    return f"10.0.0.{rank + 1}"


def _connect(spec: Links, rank: int, ranks: int) -> list[str]:
    """For `ip` in the rank's namespace. Reno is in every kernel, and needs no time to find out a rate."""
    lines = ["link set lo up", f"address add {address(rank)}/24 dev eth0", "link set eth0 up"]
    link, pairs = spec.of_rank(rank) or math.inf, spec.to_others(rank, ranks)
    sent = {other: min(link, pairs.get(other, math.inf)) for other in range(ranks) if other != rank}
    for other, rate in sent.items():
        others_rate = spec.of_rank(other) or math.inf
        route = f"route add {address(other)}/32 dev eth0 src {address(rank)} congctl reno"
        if (slowest := min(rate, others_rate)) < math.inf:
            # With less at the start and after every pause, a connection would need some round trips to fill a link.
            window = 2 * max(LEAST_WINDOW, slowest / 8 * (WINDOW_S + 2 * spec.delay_s))
            route += f" initcwnd {window / PACKET:.0f}"
            if link < others_rate:
                # The other would fill the queue at this link, and behind that waits the word of what it has received.
                # With half of it, data of the other way holds up its acknowledgements too long to fill the link.
                route += f" window {window:.0f}"
        lines.append(route)
    if (slowest := min(sent.values(), default=math.inf)) < math.inf:
        # What TCP hands over as one packet then fits into the bucket. Larger ones fill the queue, and some are lost.
        lines.append(f"link set eth0 gso_max_size {min(LARGEST, 0.9 * burst(slowest)):.0f}")
    return lines


def _shape(spec: Links, rank: int, ranks: int) -> list[str]:
    """For `tc` in the rank's namespace: what it sends."""
    lines, parent = [], below_delay(spec)
    if spec.delay:
        lines.append(f"qdisc add dev eth0 root handle 1: netem delay {spec.delay} limit {DELAYED}")
    if rate := spec.of_rank(rank):
        lines.append(f"qdisc add dev eth0 {parent} {bucket(rate)}")
    if rates := spec.to_others(rank, ranks):
        lines.append(f"qdisc add dev eth0 {parent} handle 2: htb")
    for other, rate in rates.items():
        number = f"{other + 1:x}"
        lines += [
            # The class only sorts: by itself it would let a packet of LARGEST through however small its bucket.
            f"class add dev eth0 parent 2: classid 2:{number} htb rate {links.RATE.most} quantum {QUANTUM}",
            f"filter add dev eth0 parent 2: protocol ip prio 1 u32 match ip dst {address(other)}/32 flowid 2:{number}",
            f"qdisc add dev eth0 parent 2:{number} {bucket(rate)}",
        ]
    return lines


def below_delay(spec: Links) -> str:
    """Where a rank's eth0 has its bucket, as tc writes it."""
    return "parent 1:1" if spec.delay else "root"


def burst(rate: float) -> float:
    """Bytes that an idle link of so many bits per second lets through at once."""
    return max(LEAST_BURST, BURST_S * rate / 8)


def bucket(rate: float, nbytes: float | None = None) -> str:
    """A token bucket of so many bits per second, as tc writes it; of `nbytes`, or what is right for this rate."""
    nbytes = nbytes or burst(rate)
    limit = nbytes + max(LEAST_QUEUE, QUEUE_S * rate / 8)
    return f"tbf rate {rate:.0f}bit burst {nbytes:.0f} limit {limit:.0f}"


def _do(line: str, given: list[str] | None = None) -> None:
    code, out, err = _run(line, "\n".join(given or []))
    if code:
        said = " ".join((err or out).split())
        if given and (failed := re.search(r" ?Command failed -:(\d+)", said)):
            line = f"{line.split()[0]} {given[int(failed[1]) - 1]}"
            said = said.replace(failed[0], "")
        if kind := re.search(r"qdisc add .*\b(tbf|htb|netem) ", line):
            said += f" It needs the kernel module sch_{kind[1]}."
        raise UserError(f"--links: `{line}`: {said}")


def _run(line: str, given: str = "") -> tuple[int, str, str]:
    done = subprocess.run(line.split(), input=given, capture_output=True, text=True)
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


def _start_changes(text: str, ranks: str) -> None:
    """Start the helper that changes the links. It waits for the program, and goes with the namespaces."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(CHANGES)
        listener.listen()
        line = [sys.executable, "-P", "-m", "outpace.benchmarks.machine.link_changes", text, ranks]
        subprocess.Popen(line, stdin=listener.fileno())


def main() -> None:
    """The first process in the namespaces: SPEC RANKS and the launcher's line, which it starts, if any."""
    text, ranks, *line = sys.argv[1:]
    spec = links.parse(text)
    try:
        addresses = set_up(spec, int(ranks))
    except UserError as error:
        print(f"outpace: {error}", file=sys.stderr)
        sys.exit(2)
    if not line:
        return
    line = reach_by(line, addresses)
    if guardian.SOCKET in os.environ:
        _give_address()
        os.environ[guardian.SOCKET] = GUARDIAN
    if isinstance(spec, Shared):
        _start_changes(text, ranks)
    # Whatever the user has chosen: UCX sees that all ranks are on one machine, and would go past the links.
    os.environ |= {VARIABLE: text, **transport.LIBFABRIC_TCP}
    # The first process in here inherits orphans, and Hydra would take a killed rank for one of its proxies.
    os.execvp("sh", ["sh", "-c", '"$@"; exit $?', "sh", *line])


if __name__ == "__main__":
    main()
