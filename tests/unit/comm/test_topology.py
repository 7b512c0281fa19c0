"""Topologies against closed forms, SciPy's graph routines and the table of papers.md, section 1.3."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph

from outpace.comm import graphs
from outpace.comm.errors import UserError
from outpace.comm.topology import (
    TOPOLOGIES,
    bipartite,
    bipartition,
    canonical,
    diameter,
    mixing_matrices,
    mixing_matrix,
    neighbours,
    push_matrices,
    smallest_eigenvalue,
    spectral_gap,
    steps_to_all,
)

SEEDS = st.integers(0, 2**32 - 1)
EXPONENTIAL = ("static-exponential", "one-peer")


def edges(W):
    """The edges i < j of the graph of W."""
    return {(int(i), int(j)) for i, j in np.argwhere(np.triu(W, 1))}


def degrees(W):
    return [len(neighbours(W, rank)) for rank in range(len(W))]


def write(path, W):
    np.savetxt(path, W)
    return f"file:path={path}"


@st.composite
def made(draw):
    """(SPEC, n) of every undirected topology that needs no file, at every kind of n that it has."""
    name = draw(st.sampled_from(sorted(set(TOPOLOGIES) - {"file", *EXPONENTIAL})))
    n = draw(st.integers(1, 24))
    text = name
    if name == "torus":
        rows, cols = draw(st.integers(2, 6)), draw(st.integers(2, 6))
        n, text = rows * cols, draw(st.sampled_from(["torus", f"torus:rows={rows}"]))
    elif name == "hypercube":
        n = 2 ** draw(st.integers(0, 5))
    elif name == "random-regular":
        n = draw(st.integers(3, 24))
        degree = draw(st.integers(2, n - 1).filter(lambda degree: degree * n % 2 == 0))
        text = f"random-regular:degree={degree},seed={draw(SEEDS)}"
    elif name == "erdos-renyi":
        text = f"erdos-renyi:p={draw(st.floats(0.4, 1))},seed={draw(SEEDS)}"
    if draw(st.booleans()):
        text += ",lazy=1" if ":" in text else ":lazy=1"
    return text, n


# Every topology: the conditions of the papers' theorems.


@settings(deadline=None, max_examples=150)
@given(made())
def test_every_matrix_is_a_mixing_matrix(case):
    text, n = case
    W = mixing_matrix(text, n)
    assert W.shape == (n, n)
    assert W.dtype == np.float64
    assert (W == W.T).all()
    assert (W >= 0).all()
    np.testing.assert_allclose(W.sum(axis=1), 1, rtol=0, atol=1e-14)
    assert csgraph.connected_components(W)[0] == 1
    assert spectral_gap(W) > 1e-4
    if "lazy=1" in text:
        assert smallest_eigenvalue(W) > -1e-14


@settings(deadline=None, max_examples=60)
@given(made())
def test_weights_are_metropolis(case):
    text, n = case
    W = mixing_matrix(text, n)
    if "lazy=1" in text:
        W = 2 * W - np.eye(n)
    degree = degrees(W)
    for i, j in edges(W):
        assert W[i, j] == pytest.approx(1 / (1 + max(degree[i], degree[j])), abs=1e-14)


@settings(deadline=None, max_examples=60)
@given(made())
def test_hops_and_halves_agree_with_scipy(case):
    text, n = case
    W = mixing_matrix(text, n)
    hops = csgraph.shortest_path(W != 0, unweighted=True)
    assert diameter(W) == hops.max()
    even_only = all(hops[0, i] % 2 != hops[0, j] % 2 for i, j in edges(W))
    assert bipartite(W) == even_only
    for rank in range(n):
        assert neighbours(W, rank).tolist() == np.flatnonzero(hops[rank] == 1).tolist()


@settings(deadline=None, max_examples=60)
@given(made())
def test_every_edge_joins_an_active_and_a_passive_worker(case):
    text, n = case
    W = mixing_matrix(text, n)
    if not bipartite(W):
        with pytest.raises(UserError, match="odd cycle"):
            bipartition(W, 0)
        return
    active = [bipartition(W, rank)[0] for rank in range(n)]
    assert not active[0]
    assert all(active[i] != active[j] for i, j in edges(W))
    for rank in range(n):
        assert bipartition(W, rank)[1].tolist() == neighbours(W, rank).tolist()


@pytest.mark.parametrize("name", ["ring", "path", "star", "complete", "torus", "hypercube", "exponential"])
def test_one_worker_stands_alone(name):
    W = mixing_matrix(name, 1)
    assert W.tolist() == [[1.0]]
    assert neighbours(W, 0).size == 0
    assert (bipartition(W, 0)[0], diameter(W), spectral_gap(W)) == (False, 0, 1.0)


def test_lazy_is_half_the_matrix_and_half_the_identity():
    np.testing.assert_array_equal(mixing_matrix("star:lazy=1", 5), (mixing_matrix("star", 5) + np.eye(5)) / 2)


# Each topology: its edges by hand, its spectrum in closed form.


def test_edges_of_small_graphs():
    assert edges(mixing_matrix("ring", 4)) == {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert edges(mixing_matrix("ring", 2)) == {(0, 1)}
    assert edges(mixing_matrix("path", 4)) == {(0, 1), (1, 2), (2, 3)}
    assert edges(mixing_matrix("star", 4)) == {(0, 1), (0, 2), (0, 3)}
    assert edges(mixing_matrix("torus", 4)) == {(0, 1), (2, 3), (0, 2), (1, 3)}
    along = {(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5)}
    assert edges(mixing_matrix("torus", 6)) == along | {(0, 3), (1, 4), (2, 5)}
    assert edges(mixing_matrix("hypercube", 4)) == {(0, 1), (2, 3), (0, 2), (1, 3)}
    assert neighbours(mixing_matrix("hypercube", 8), 5).tolist() == [1, 4, 7]
    assert neighbours(mixing_matrix("exponential", 16), 3).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert neighbours(mixing_matrix("exponential", 32), 0).tolist() == [1, 3, 5, 9, 15, 17, 23, 27, 29, 31]


def test_complete_averages_exactly():
    np.testing.assert_allclose(mixing_matrix("complete", 7), np.full((7, 7), 1 / 7), rtol=0, atol=1e-15)


def cosines(sides):
    """Sums of 2 cos(2 pi k / side) over the sides, all combinations of k; an edge instead of a ring for 2."""
    total = np.zeros(1)
    for side in sides:
        waves = np.array([1.0, -1.0]) if side == 2 else 2 * np.cos(2 * np.pi * np.arange(side) / side)
        total = np.add.outer(total, waves).ravel()
    return total


SPECTRA = [
    *[("ring", n, (1 + cosines([n])) / 3) for n in (3, 4, 5, 7, 8, 16)],
    *[("path", n, (1 + 2 * np.cos(np.pi * np.arange(n) / n)) / 3) for n in (3, 4, 9)],
    ("star", 6, [1, *[1 - 1 / 6] * 4, 0]),
    ("complete", 6, [1, *[0] * 5]),
    ("torus", 12, (1 + cosines([3, 4])) / 5),
    ("torus:rows=2", 12, (1 + cosines([2, 6])) / 4),
    ("torus", 10, (1 + cosines([2, 5])) / 4),
    *[("hypercube", 2**d, (1 + cosines([2] * d)) / (d + 1)) for d in (1, 3, 4)],
]


@pytest.mark.parametrize(("text", "n", "expected"), SPECTRA)
def test_spectrum_in_closed_form(text, n, expected):
    W = mixing_matrix(text, n)
    expected = np.sort(expected)
    np.testing.assert_allclose(np.linalg.eigvalsh(W), expected, rtol=0, atol=1e-13)
    assert smallest_eigenvalue(W) == pytest.approx(expected[0], abs=1e-13)
    assert spectral_gap(W) == pytest.approx(1 - max(abs(expected[0]), expected[-2]), abs=1e-13)


def test_spectral_gap_counts_the_negative_end():
    assert spectral_gap(np.array([[0.1, 0.9], [0.9, 0.1]])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "n", "expected"),
    [
        ("ring", 9, 4),
        ("path", 9, 8),
        ("star", 9, 2),
        ("complete", 9, 1),
        ("torus", 24, 5),
        ("hypercube", 32, 5),
    ],
)
def test_diameter_in_closed_form(name, n, expected):
    assert diameter(mixing_matrix(name, n)) == expected


# rho of pairwise averaging with a uniformly random neighbour, and the degree of the 2^i+1 graph.
RHO = [
    (4, 0.75000, 0.75000, 2, 0.66667),
    (8, 0.96339, 0.87500, 4, 0.85714),
    (16, 0.99524, 0.93750, 8, 0.93333),
    (32, 0.99940, 0.97886, 10, 0.96774),
    (64, 0.99992, 0.99056, 12, 0.98413),
]


@pytest.mark.parametrize(("n", "ring", "exponential", "degree", "complete"), RHO)
def test_rho_of_random_pairwise_averaging(n, ring, exponential, degree, complete):
    for name, rho in [("ring", ring), ("exponential", exponential), ("complete", complete)]:
        W = mixing_matrix(name, n)
        expected_W = np.eye(n)  # the mean of I - (e_i - e_j)(e_i - e_j)'/2
        for i in range(n):
            for j in neighbours(W, i):
                expected_W[[i, j], [i, j]] -= 0.5 / (n * len(neighbours(W, i)))
                expected_W[[i, j], [j, i]] += 0.5 / (n * len(neighbours(W, i)))
        assert 1 - spectral_gap(expected_W) == pytest.approx(rho, abs=5.1e-6), name
    assert degrees(mixing_matrix("exponential", n)) == [degree] * n


# The exponential graphs of Ying et al., arXiv:2110.13363, and matrices for push-sum.


@pytest.mark.parametrize("n", range(1, 20))
@pytest.mark.parametrize("name", EXPONENTIAL)
def test_exponential_graphs_by_their_definition(name, n):
    """W_ij is not 0 where i = j, or where i - j (mod n) is a power of two: any one, or that of the step."""
    L = (n - 1).bit_length()
    hops = [{2**k} for k in range(L)] if name == "one-peer" else [{2**k for k in range(L)}]
    matrices = mixing_matrices(name, n)
    assert len(matrices) == max(1, len(hops))
    for W, of_step in zip(matrices, hops, strict=n > 1):
        expected = [[float(i == j or (i - j) % n in of_step) for j in range(n)] for i in range(n)]
        np.testing.assert_allclose(W, np.array(expected) / (1 + len(of_step)), rtol=0, atol=1e-15)
    lazy = mixing_matrices(f"{name}:lazy=1", n)
    np.testing.assert_allclose(lazy, (np.array(matrices) + np.eye(n)) / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", range(2, 65))
def test_spectral_gap_of_the_static_exponential_graph(n):
    """Proposition 1: 2/(1 + ceil(log2 n)) for every even n, more for odd n; and so contracts a step in the 2-norm."""
    (W,) = mixing_matrices("static-exponential", n)
    second = np.sort(np.abs(np.linalg.eigvals(W)))[-2]
    assert spectral_gap(W) == pytest.approx(1 - second, abs=1e-12)
    stated = 2 / (1 + np.ceil(np.log2(n)))
    if n % 2:
        assert spectral_gap(W) > stated + 1e-6
    else:
        assert spectral_gap(W) == pytest.approx(stated, abs=1e-12)


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32, 64])
def test_one_peer_averages_exactly(n):
    """Lemma 1: log2 n steps in a row, from whichever one on, and no fewer."""
    matrices = mixing_matrices("one-peer", n)
    assert len(matrices) == np.log2(n)
    for first in range(len(matrices)):
        product = np.eye(n)
        for W in matrices[first:] + matrices[:first]:
            assert np.abs(product - 1 / n).max() >= 1 / n
            product = W @ product
        np.testing.assert_allclose(product, np.full((n, n), 1 / n), rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", [3, 5, 6, 12])
def test_one_peer_of_another_number_is_not_exact(n):
    """But all have heard of all after one period, and no sooner."""
    reached, matrices = np.eye(n), mixing_matrices("one-peer", n)
    for W in matrices:
        assert not reached.all()
        reached = W @ reached
    assert reached.all()
    assert np.abs(reached - 1 / n).max() > 0.01
    assert steps_to_all(matrices) == len(matrices)


def test_steps_to_all_of_one_graph_is_its_diameter():
    assert [steps_to_all(mixing_matrices(name, 16)) for name in ("ring", "star", "static-exponential")] == [8, 2, 4]


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_directed_graphs_are_no_symmetric_matrix(name):
    for n in (1, 2, 8):
        with pytest.raises(UserError, match=rf"--topology {name} is directed.* one symmetric mixing matrix; .* ring,"):
            mixing_matrix(name, n)


@settings(deadline=None, max_examples=60)
@given(made())
def test_push_matrices_give_equal_parts(case):
    """Column j: the same part to j and to each that it sends to; on a regular graph those are Metropolis's."""
    text, n = case
    (P,) = push_matrices(text, n)
    W = mixing_matrix(text, n)
    np.testing.assert_allclose(P.sum(axis=0), 1, rtol=0, atol=1e-14)
    assert ((P != 0) == (W != 0) | np.eye(n, dtype=bool)).all()
    if "lazy=1" in text:
        P = 2 * P - np.eye(n)
    for column, degree in zip(P.T, degrees(W), strict=True):
        np.testing.assert_allclose(column[column > 0], 1 / (1 + degree), rtol=0, atol=1e-14)
    if len(set(degrees(W))) == 1:
        np.testing.assert_allclose(push_matrices(text, n)[0], W, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_exponential_graphs_push_equal_parts_as_they_are(name):
    for n in (1, 2, 5, 8):
        np.testing.assert_allclose(push_matrices(name, n), mixing_matrices(name, n), rtol=0, atol=1e-15)


# Random graphs.


@settings(deadline=None, max_examples=80)
@given(n=st.integers(3, 30), degree=st.integers(2, 29), seed=SEEDS)
def test_random_regular_has_its_degree(n, degree, seed):
    if degree >= n or degree * n % 2:
        with pytest.raises(UserError, match=f"degree is {degree}"):
            mixing_matrix(f"random-regular:degree={degree},seed={seed}", n)
    else:
        assert degrees(mixing_matrix(f"random-regular:degree={degree},seed={seed}", n)) == [degree] * n


def test_random_regular_reaches_every_graph():
    """The 70 connected cubic graphs on 6 labelled vertices, 10 times K_{3,3} and 60 prisms, equally often.

    Chi-square with 69 degrees of freedom below its 0.999 quantile, 111.1, for seeds fixed in advance.
    """
    counts = {}
    for seed in range(2100):
        W = mixing_matrix(f"random-regular:degree=3,seed={seed}", 6)
        key = frozenset(edges(W))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 70
    assert sum((count - 30) ** 2 / 30 for count in counts.values()) < 111.1


def test_random_regular_of_degree_2_is_one_cycle():
    for seed in range(20):
        assert diameter(mixing_matrix(f"random-regular:degree=2,seed={seed}", 12)) == 6


def test_erdos_renyi_has_about_p_of_the_edges():
    counts = [len(edges(mixing_matrix(f"erdos-renyi:p=0.5,seed={seed}", 24))) for seed in range(40)]
    pairs = 40 * 24 * 23 / 2
    # 276 pairs at p = 1/2 are practically never disconnected, so the count is binomial: within 3.3 deviations
    assert abs(sum(counts) - pairs / 2) < 3.3 * np.sqrt(pairs) / 2
    assert edges(mixing_matrix("erdos-renyi:p=1", 6)) == edges(mixing_matrix("complete", 6))


@pytest.mark.parametrize("text", ["random-regular:degree=4", "erdos-renyi:p=0.3"])
def test_seeds_repeat_and_differ(text):
    matrices = [mixing_matrix(f"{text},seed={seed}", 16) for seed in range(5)]
    for seed, W in enumerate(matrices):
        np.testing.assert_array_equal(W, mixing_matrix(f"{text},seed={seed}", 16))
    assert all((W != V).any() for W, V in pairwise(matrices))
    np.testing.assert_array_equal(matrices[0], mixing_matrix(text, 16))  # the default seed is 0


def test_erdos_renyi_gives_up():
    with pytest.raises(UserError, match=r"none of 1000 graphs of 16 workers with p=0.01 is connected; p of 0\.17"):
        mixing_matrix("erdos-renyi:p=0.01", 16)


def test_random_regular_gives_up(monkeypatch):
    monkeypatch.setattr(graphs, "connected", lambda graph: False)
    with pytest.raises(UserError, match="no connected graph of 4 workers"):
        mixing_matrix("random-regular:degree=2", 4)


# Matrices from files.


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", "])
def test_file_is_taken_as_it_is(tmp_path, separator):
    W = np.array([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.25, 0.0, 0.75]])
    lines = "\n".join(separator.join(map(str, row)) for row in W)
    (tmp_path / "W.txt").write_text(f"# three workers\n\n{lines}  # the last\n")
    np.testing.assert_array_equal(mixing_matrix(f"file:path={tmp_path}/W.txt", 3), W)
    np.testing.assert_array_equal(mixing_matrix(f"file:path={tmp_path}/W.txt,lazy=1", 3), (W + np.eye(3)) / 2)


@pytest.mark.parametrize("text", ["ring", "path", "star", "complete", "torus", "random-regular:degree=3"])
def test_file_gives_back_what_was_saved(tmp_path, text):
    W = mixing_matrix(text, 6)
    np.testing.assert_array_equal(mixing_matrix(write(tmp_path / "W", W), 6), W)


def test_one_worker_from_a_file(tmp_path):
    assert mixing_matrix(write(tmp_path / "W", [[1.0]]), 1).tolist() == [[1.0]]


BAD_FILES = [
    ("", "no numbers"),
    ("0.5 0.5\n0.5", "different amounts"),
    ("0.5 half\n0.5 0.5", "half"),
    ("1", "holds 1 x 1 numbers; 2 workers need 2 x 2"),
    ("0.5 0.5\n0.5 0.5\n0.5 0.5", "holds 3 x 2 numbers"),
    ("1.5 -0.5\n-0.5 1.5", r"W\[0,1\] is -0.5"),
    ("nan 1\n1 nan", r"W\[0,0\] is nan"),
    ("0.5 0.5\ninf 0.5", r"W\[1,0\] is inf"),
    ("0.5 0.5\n0.4 0.6", "must be symmetric"),
    ("0.6 0.5\n0.5 0.5", "row 0 sums to 1.1"),
    ("0.5 0.5\n0.5 0.50000001", "row 1 sums to 1.00000001"),
    ("1 0\n0 1", "from worker 0 to worker 1"),
    ("0 1\n1 0", "smallest eigenvalue is -1"),
]


@pytest.mark.parametrize(("content", "reason"), BAD_FILES)
def test_bad_file_is_named_with_its_flaw(tmp_path, content, reason):
    (tmp_path / "W.txt").write_text(content)
    with pytest.raises(UserError, match=rf"W\.txt: .*{reason}"):
        mixing_matrix(f"file:path={tmp_path}/W.txt", 2)


# Who sends to whom is told by columns here: 0 -> 1 -> 2 -> 0, of unequal parts.
PUSHED = "0.5 0 0.25\n0.5 0.5 0\n0 0.5 0.75"


def test_push_sum_takes_a_directed_file(tmp_path):
    (tmp_path / "P.txt").write_text(PUSHED)
    (P,) = push_matrices(f"file:path={tmp_path}/P.txt", 3)
    assert P.tolist() == [[0.5, 0, 0.25], [0.5, 0.5, 0], [0, 0.5, 0.75]]
    with pytest.raises(UserError, match="must be symmetric"):
        mixing_matrices(f"file:path={tmp_path}/P.txt", 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("0.5 0.5\n0.3 0.5", r"column 0 sums to 0\.8; columns must sum to 1"),
        ("0.5 0\n0.5 1", "from worker 1 to worker 0"),
        ("1 0.5\n0 0.5", "from worker 0 to worker 1"),
        ("0 0.5\n1 0.5", r"W\[0,0\] is 0, and every worker must keep a part; lazy=1"),
    ],
)
def test_bad_file_for_push_sum_is_named_with_its_flaw(tmp_path, content, reason):
    (tmp_path / "P.txt").write_text(content)
    with pytest.raises(UserError, match=rf"P\.txt: .*{reason}"):
        push_matrices(f"file:path={tmp_path}/P.txt", 2)


def test_a_byte_order_mark_is_no_number(tmp_path):
    (tmp_path / "marked").write_text("0.75 0.25\n0.25 0.75\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(mixing_matrix(f"file:path={tmp_path / 'marked'}", 2), [[0.75, 0.25], [0.25, 0.75]])


def test_unreadable_file_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\x89HDF\r\n\xff")
    for name, reason in [("none", "no such file"), ("", "it is a folder"), ("binary", "not a text file")]:
        with pytest.raises(UserError, match=reason):
            mixing_matrix(f"file:path={tmp_path}/{name}", 2)


def test_lazy_makes_a_periodic_file_usable(tmp_path):
    text = write(tmp_path / "W", [[0.0, 1.0], [1.0, 0.0]])
    assert mixing_matrix(text + ",lazy=1", 2).tolist() == [[0.5, 0.5], [0.5, 0.5]]


# Errors.


@pytest.mark.parametrize(
    ("text", "n", "reason"),
    [
        ("torus", 7, "7 workers; .* such as 6 or 8"),
        ("torus", 2, "such as 4"),
        ("torus:rows=3", 8, "rows is 3 with 8 workers; .* rows that work: 2, 4"),
        ("torus:rows=2", 5, "no number of rows works"),
        ("torus:rows=1", 4, "rows is 1; it must be at least 2"),
        ("hypercube", 6, "6 workers; it needs a power of two, such as 4 or 8"),
        ("random-regular:degree=4", 4, "degree is 4; with 4 workers it must be less than 4"),
        ("random-regular:degree=3", 5, "with 5 workers it must be even"),
        ("random-regular:degree=1", 4, "with 4 workers it must be at least 2"),
        ("random-regular:degree=1", 1, "with 1 worker it must be less than 1"),
        ("random-regular", 4, "needs degree="),
        ("random-regular:degree=2,seed=4294967296", 4, "seed is 4294967296; .* at most 4294967295"),
        ("erdos-renyi:p=0", 4, "p is 0; it must be more than 0"),
        ("ring:lazy=2", 4, "lazy is 2"),
        ("circle", 4, "unknown name 'circle'; allowed: ring, path"),
    ],
)
def test_impossible_graph_is_refused(text, n, reason):
    with pytest.raises(UserError, match=reason):
        mixing_matrix(text, n)


def test_no_worker_is_refused():
    with pytest.raises(ValueError, match="n is 0"):
        mixing_matrix("ring", 0)


def test_odd_cycle_is_explained():
    with pytest.raises(UserError) as raised:
        bipartition(mixing_matrix("ring", 5), 2, name="ring")
    text = str(raised.value)
    assert "the graph ring of 5 workers has an odd cycle" in text
    assert text.endswith("bipartite with 5 workers: path, star")
    with pytest.raises(UserError, match=r"bipartite with 8 workers: ring, path, star, torus, hypercube, exponential$"):
        bipartition(mixing_matrix("complete", 8), 0)


def test_canonical_writes_the_defaults_out():
    assert canonical("ring") == "ring:lazy=0"
    assert canonical("torus:lazy=1") == "torus:lazy=1"
    assert canonical("random-regular:seed=1,degree=3") == canonical("random-regular:degree=3,seed=1,lazy=0")
    assert canonical(canonical("erdos-renyi:p=0.1")) == "erdos-renyi:lazy=0,p=0.1,seed=0"
