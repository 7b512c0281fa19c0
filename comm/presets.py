"""Machines by name, as TOML: networks by their public figures.

Every number has a grade behind it. `standard` is arithmetic from the standard of the link; `assumed` is an order of
magnitude, with no measurement of ours behind it. None of these machines was measured, and no error is stated.
"""

from typing import Any, Final

MACHINE: Final = """\
name = "{name}"
source = "{source}: gaps by the standard, the rest assumed"
cpu_per_message_s = {message}
pass_s_per_byte = 1e-10  # assumed: a core reads or writes 10 GB/s
jitter = {jitter}
packet_bytes = 8192  # assumed
eager_bytes = {eager}
allreduce = "ring"  # of long vectors

# standard: {standard} are payload
[gap_s_per_byte]
duplex = {gap!r}
neighbours = {gap!r}
allreduce = {gap!r}
incast = {gap!r}

# assumed: a short message from process to process
[latency_s]
duplex = {latency}
neighbours = {latency}
allreduce = {latency}
incast = {latency}
"""


def _ethernet(rate: int, latency: str) -> dict[str, Any]:
    return {
        "source": f"{rate} Gbit/s Ethernet, TCP",
        "message": "5e-6  # assumed: a system call on either side",
        "jitter": "0.3  # assumed: as where flows into a server were measured",
        "eager": "4194304  # assumed: what Linux's socket buffers take while a rank computes",
        "standard": f"{rate} Gbit/s, of whose 1,538 bytes a frame (IEEE 802.3, with preamble and gap) 1,448",
        "gap": 8 / (rate * 1e9) * 1538 / 1448,
        "latency": latency,
    }


NUMBERS: Final[dict[str, dict[str, Any]]] = {
    "10gbit": _ethernet(10, "3e-5"),
    "25gbit": _ethernet(25, "2e-5"),
    "100gbit": _ethernet(100, "1.5e-5"),
    "hdr": {
        "source": "HDR InfiniBand, 4 lanes",
        "message": "5e-7  # assumed: the adapter moves the data",
        "jitter": "0.1  # assumed: links with credits lose no packets",
        "eager": "16384  # assumed",
        "standard": "200 Gbit/s, of whose 4,126 bytes a packet (InfiniBand, MTU 4096, headers and checksums) 4,096",
        "gap": 8 / 200e9 * 4126 / 4096,
        "latency": "1.5e-6",
    },
}
PRESETS: Final[dict[str, str]] = {name: MACHINE.format(name=name, **numbers) for name, numbers in NUMBERS.items()}
