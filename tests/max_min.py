"""When flows end that share ports max-min: by progressive filling, and by SimGrid where Debian's package is."""

import json
import subprocess
from collections.abc import Sequence
from typing import Final

Flow = tuple[int, int, float]  # from, to, bytes; all start at once
SIMGRID: Final = "/usr/bin/python3"  # whose packages Debian's are
SCRIPT: Final = """
import json, sys
from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone
rates, flows = json.load(sys.stdin)
options = ("network/model:CM02", "network/crosstraffic:0", "network/TCP-gamma:0", "network/weight-S:0")
engine = Engine(["flows", "--log=root.threshold:error", *(f"--cfg={option}" for option in options)])
zone = NetZone.create_full_zone("zone")
hosts = [zone.create_host(f"h{i}", 1e9) for i in range(len(rates))]
ports = [[zone.create_link(f"{way}{i}", rate).set_latency(0).seal() for i, rate in enumerate(rates)]
         for way in ("out", "in")]
for a in range(len(rates)):
    for b in range(len(rates)):
        if a != b:
            route = [LinkInRoute(ports[0][a]), LinkInRoute(ports[1][b])]
            zone.add_route(hosts[a].netpoint, hosts[b].netpoint, None, None, route, False)
zone.seal()
ends = [0.0] * len(flows)
def send(number, a, b, nbytes):
    Comm.sendto(hosts[a], hosts[b], int(nbytes))
    ends[number] = Engine.clock
for number, (a, b, nbytes) in enumerate(flows):
    Actor.create(f"f{number}", hosts[a], send, number, a, b, nbytes)
engine.run()
print(json.dumps(ends))
"""


def filled(rates: Sequence[float], flows: Sequence[Flow]) -> list[float]:
    """Seconds until each flow ends, where every rank has so many bytes per second each way."""
    left = dict(enumerate(nbytes for _, _, nbytes in flows))
    ends, now = [0.0] * len(flows), 0.0
    while left:
        rate = _shares(rates, {number: flows[number] for number in left})
        step = min(left[number] / rate[number] for number in left)
        now += step
        for number in [*left]:
            left[number] -= step * rate[number]
            if left[number] <= 1e-6:
                ends[number] = now
                del left[number]
    return ends


def _shares(rates: Sequence[float], flows: dict[int, Flow]) -> dict[int, float]:
    """Bytes per second of each flow: the port with the least for each is filled first."""
    ports = {(way, rank): rate for rank, rate in enumerate(rates) for way in (0, 1)}
    through = {port: {number for number, flow in flows.items() if flow[port[0]] == port[1]} for port in ports}
    shares: dict[int, float] = {}
    while len(shares) < len(flows):
        port = min((port for port in ports if through[port]), key=lambda port: ports[port] / len(through[port]))
        share = ports[port] / len(through[port])
        for number in [*through[port]]:
            shares[number] = share
            for way in (0, 1):
                end = way, flows[number][way]
                through[end].discard(number)
                ports[end] -= share
    return shares


def has_simgrid() -> bool:
    try:
        return not subprocess.run([SIMGRID, "-c", "import simgrid"], capture_output=True).returncode
    except FileNotFoundError:
        return False


def of_simgrid(rates: Sequence[float], flows: Sequence[Flow]) -> list[float]:
    given = json.dumps([rates, flows])
    done = subprocess.run([SIMGRID, "-c", SCRIPT], input=given, capture_output=True, text=True, check=True)
    ends: list[float] = json.loads(done.stdout)
    return ends
