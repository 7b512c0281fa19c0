"""A machine with round numbers, for tests of the simulated network."""

from typing import Any, Final

from outpace.comm.machines import ByPattern, Machine

GAP_S: Final = 1e-9  # a byte
LATENCY_S: Final = 2e-6
PACKET: Final = 65_536


def machine(**others: Any) -> Machine:
    """Without jitter, the same for all patterns, unless `others` say so."""
    values: dict[str, Any] = {"gap_s_per_byte": everywhere(GAP_S), "latency_s": everywhere(LATENCY_S), "jitter": 0.0}
    values |= {"name": "made", "source": "for a test", "cpu_per_message_s": 1e-6, "pass_s_per_byte": 1e-10}
    return Machine(**{"packet_bytes": PACKET, **values, **others})


def everywhere(value: float) -> ByPattern:
    return ByPattern(duplex=value, neighbours=value, allreduce=value, incast=value)
