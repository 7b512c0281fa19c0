"""A few of the tries of `make flips`."""

from collections import Counter

import flips


def test_no_damage_is_taken_for_good() -> None:
    counts = Counter(flips.attempts(["ad_psgd"], 24, seed=5))
    for kind in flips.KINDS:
        assert sum(count for (tried, _), count in counts.items() if tried == kind) == 6
    assert counts["part", "recovered before it"] > 0
    assert counts["state", "refused"] == 6
