"""What `outpace show` says of a network."""

import numpy as np
import pytest

from outpace.benchmarks.trace import pairs

SLOW = 1.25e6  # bytes per second
# Rates of pairs, what is told of them, and of what is slow.
NETWORKS: dict[str, tuple[dict[tuple[int, int], float], str, list[str]]] = {
    "slow rank": (
        {(0, 1): 1.2e8, (0, 2): SLOW, (0, 3): 1.1e8, (1, 2): SLOW / 2, (1, 3): 1e8, (2, 3): SLOW},
        "each way 405 Mbit/s in the median of 6 pairs, 5 Mbit/s to 960 Mbit/s",
        ["slow: rank 2, at most 10 Mbit/s"],
    ),
    "slow ranks": (
        {(0, 1): SLOW, (0, 2): SLOW, (0, 3): 1.249999e8, (1, 2): SLOW, (1, 3): SLOW, (2, 3): SLOW},
        "each way 10 Mbit/s in the median of 6 pairs, 10 Mbit/s to 1 Gbit/s",
        ["slow: ranks 1, 2, at most 10 Mbit/s"],
    ),
    "slow pair": (
        {(0, 1): 5e7, (0, 2): 5e7, (1, 2): SLOW},
        "each way 400 Mbit/s in the median of 3 pairs, 10 Mbit/s to 400 Mbit/s",
        ["slow: ranks 1 and 2, 10 Mbit/s"],
    ),
    "alike": (
        {(0, 1): 2e8, (0, 2): 3e8, (1, 2): 4e8},
        "each way 2.4 Gbit/s in the median of 3 pairs, 1.6 Gbit/s to 3.2 Gbit/s",
        [],
    ),
    "one pair": ({(0, 1): SLOW / 1000}, "each way 10 kbit/s", []),
}


@pytest.mark.parametrize(("rates", "told", "slow"), NETWORKS.values(), ids=NETWORKS)
def test_the_network_and_what_is_slow_in_it(rates: dict[tuple[int, int], float], told: str, slow: list[str]) -> None:
    a, b = np.array(list(rates)).T
    rtt_s = np.linspace(1e-5, 2.5e-3, len(rates))
    trip, *more = pairs.in_words(a, b, rtt_s, np.array(list(rates.values()))).splitlines()
    assert trip == "round trip 10 us" if len(rates) == 1 else trip.endswith(", 10 us to 2.5 ms")
    assert more == [told, *slow]
