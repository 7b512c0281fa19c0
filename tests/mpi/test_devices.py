"""Which device a rank uses, and what a trace says of it."""

import pytest
from harness import CheckedComm

from outpace.benchmarks.machine import provenance
from outpace.comm import arrays


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize(
    "left",
    [{}, {"SLURM_LOCALID": "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "SLURM_LOCALID": "0"}, {"PMI_LOCAL_RANK": "3"}],
    ids=lambda left: "+".join(left) or "none",
)
@pytest.mark.parametrize("told", [False, True], ids=["launcher silent", "launcher tells"])
def test_ranks_of_a_node_have_different_numbers(
    comm: CheckedComm, monkeypatch: pytest.MonkeyPatch, left: dict[str, str], told: bool
) -> None:
    """Whatever variables are left over of a launcher around this one: srun gives its one batch script number 0."""
    for name in arrays.LOCAL_RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    if told:
        monkeypatch.setenv("MPI_LOCALRANKID", str(comm.size - 1 - comm.rank))
    numbers = comm.allgather(arrays.local_rank(comm))
    assert numbers == (list(reversed(range(comm.size))) if told else list(range(comm.size)))


def test_each_node_counts_for_itself() -> None:
    ranks = [(node, {"SLURM_LOCALID": number}) for node, number in (("a", "1"), ("b", "0"), ("a", "0"), ("b", "1"))]
    assert [arrays.place_on_node(ranks, rank) for rank in range(4)] == [1, 0, 0, 1]
    ranks[0] = ("a", {})
    assert [arrays.place_on_node(ranks, rank) for rank in range(4)] == [0, 0, 1, 1]


def test_workers_that_share_a_gpu_are_emulated(comm: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ranks_share_cores", lambda seats: False)
    assert provenance.claim_class(comm, False, ["A", "B"]) == "measured"
    assert provenance.claim_class(comm, False, ["A", "B", "A"]) == "emulated"
