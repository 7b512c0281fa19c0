"""Splits: partitions with the labels and the amounts that were asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.benchmarks.problems.splits import canonical, deal
from outpace.comm.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)
LABELS = np.repeat(np.arange(10), 60)  # ten labels, 60 samples each


def assert_partition(shares, n, n_total):
    assert len(shares) == n
    assert all(len(share) for share in shares)
    assert np.sort(np.concatenate(shares)).tolist() == list(range(n_total))
    assert all((np.diff(share) > 0).all() for share in shares)


def label_table(labels, shares):
    """How many samples of each label each worker holds, labels in increasing order."""
    return np.array([[(labels[share] == label).sum() for label in np.unique(labels)] for share in shares])


def attempt(text, labels, n, seed):
    """The shares, or None where the split is refused."""
    try:
        return deal(text, labels, n, seed)
    except UserError:
        return None


def can_be_dealt_by_labels(labels, n, classes):
    """Whether every label has a worker and every worker a sample, counted worker by worker."""
    names, counts = np.unique(labels, return_counts=True)
    holders = [[] for _ in names]
    for i in range(n):
        for j in range(classes):
            holders[(i * classes + j) % len(names)].append(i)
    served = {i for held, count in zip(holders, counts, strict=True) for i in held[:count]}
    return classes <= len(names) and all(holders) and len(served) == n


@settings(deadline=None, max_examples=300)
@given(
    labels=st.lists(st.integers(-3, 6), min_size=1, max_size=60).map(np.array),
    n=st.integers(1, 12),
    classes=st.integers(1, 5),
    seed=SEEDS,
)
def test_a_split_is_a_partition_or_rightly_refused(labels, n, classes, seed):
    enough = n <= len(labels)
    for text, possible in [
        ("iid", enough),
        ("size:ratio=1", enough),
        (f"labels:classes={classes}", enough and can_be_dealt_by_labels(labels, n, classes)),
    ]:
        shares = attempt(text, labels, n, seed)
        assert (shares is not None) == possible
        if shares is not None:
            assert_partition(shares, n, len(labels))


@settings(deadline=None, max_examples=100)
@given(
    text=st.sampled_from(["size:ratio=8", "dirichlet:alpha=0.3", "dirichlet:alpha=100"]),
    labels=st.lists(st.integers(0, 4), min_size=40, max_size=80).map(np.array),
    n=st.integers(1, 6),
    seed=SEEDS,
)
def test_uneven_splits_are_partitions(text, labels, n, seed):
    shares = attempt(text, labels, n, seed)
    assert shares is not None or text == "dirichlet:alpha=0.3"
    if shares is not None:
        assert_partition(shares, n, len(labels))


@pytest.mark.parametrize("text", ["iid", "labels:classes=3", "dirichlet:alpha=1", "size:ratio=4"])
def test_seeds_repeat_and_differ(text):
    first, again, other = (deal(text, LABELS, 5, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


# iid


@given(n=st.integers(1, 40), n_total=st.integers(40, 200), seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_iid_amounts_differ_by_at_most_one(n, n_total, seed):
    sizes = [len(share) for share in deal("iid", None, n, seed, n_total)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_is_shuffled():
    """No worker's count of a label is more than 4.5 deviations off; sorted labels would be by far more."""
    table = label_table(LABELS, deal("iid", LABELS, 6, seed=0))
    deviation = np.sqrt(100 * 0.1 * 0.9 * 500 / 599)  # hypergeometric: 100 of 600, 60 of each label
    assert np.abs(table - 10).max() < 4.5 * deviation


# labels


@pytest.mark.parametrize(("n", "classes"), [(5, 2), (10, 1), (10, 2), (3, 4), (8, 3), (4, 10), (16, 2), (1, 10)])
def test_workers_hold_their_labels_and_share_them_evenly(n, classes):
    table = label_table(LABELS, deal(f"labels:classes={classes}", LABELS, n, seed=1))
    for i in range(n):
        assert set(np.flatnonzero(table[i])) == {(i * classes + j) % 10 for j in range(classes)}
    for column in table.T:
        held = column[column > 0]
        assert held.sum() == 60
        assert held.max() - held.min() <= 1


def test_labels_may_be_any_numbers():
    shares = deal("labels:classes=1", np.array([1, -1, 1, -1, 1, 9]), 3, seed=0)
    assert [share.tolist() for share in shares] == [[1, 3], [0, 2, 4], [5]]


def test_a_shared_label_is_shuffled_before_it_is_divided():
    low = [(deal("labels:classes=1", LABELS, 20, seed)[0] < 30).sum() for seed in range(20)]
    assert min(low) > 0
    assert max(low) < 30


@pytest.mark.parametrize(("n", "least"), [(1, 10), (2, 5), (3, 4), (4, 3), (6, 2), (7, 2), (9, 2), (10, 1)])
def test_the_named_number_of_classes_is_the_smallest_that_suffices(n, least):
    assert_partition(deal(f"labels:classes={least}", LABELS, n, seed=0), n, 600)
    if least > 1:
        with pytest.raises(UserError, match=rf"classes is {least - 1}; with {n} workers .* at least {least},"):
            deal(f"labels:classes={least - 1}", LABELS, n, seed=0)


def test_more_classes_than_labels_are_refused():
    with pytest.raises(UserError, match="classes is 11; the data has 10 labels"):
        deal("labels:classes=11", LABELS, 2, seed=0)


# dirichlet


def test_dirichlet_with_a_large_alpha_is_proportional():
    table = label_table(LABELS, deal("dirichlet:alpha=1e6", LABELS, 6, seed=0))
    assert np.abs(table - 10).max() <= 1


def test_dirichlet_with_a_small_alpha_gives_a_label_to_one_worker():
    table = label_table(LABELS, deal("dirichlet:alpha=1e-3", LABELS, 2, seed=0))
    assert (table.max(axis=1) == 60).all()
    assert (np.sort(table, axis=0)[:-1] == 0).all()


def test_dirichlet_shares_have_their_variance():
    """Var of a share is (1/n)(1 - 1/n)/(n alpha + 1): 20,000 shares, drawn label by label, within 5 %."""
    n, alpha = 4, 2.0
    labels = np.repeat(np.arange(50), 400)
    shares = [label_table(labels, deal(f"dirichlet:alpha={alpha}", labels, n, s)) / 400 for s in range(100)]
    share = np.concatenate(shares, axis=1)
    assert np.var(share) == pytest.approx((1 / n) * (1 - 1 / n) / (n * alpha + 1), rel=0.05)
    assert np.abs(share.mean(axis=1) - 1 / n).max() < 0.01
    assert abs(np.corrcoef(share[0, ::2], share[0, 1::2])[0, 1]) < 0.08  # labels are independent


# size


@pytest.mark.parametrize(("n", "ratio"), [(4, 8), (8, 10), (5, 1), (2, 100), (1, 3)])
def test_amounts_grow_geometrically(n, ratio):
    sizes = np.array([len(share) for share in deal(f"size:ratio={ratio}", None, n, 0, 100_000)])
    growth = ratio ** (1 / (n - 1)) if n > 1 else 1.0
    expected = growth ** np.arange(n)
    np.testing.assert_allclose(sizes, 100_000 * expected / expected.sum(), rtol=0, atol=1)


def test_uneven_workers_have_alike_labels():
    table = label_table(LABELS, deal("size:ratio=4", LABELS, 3, seed=0))
    share = table / table.sum(axis=1, keepdims=True)
    assert np.abs(share - 0.1).max() < 0.1


# errors


@pytest.mark.parametrize(
    ("text", "n", "n_total", "reason"),
    [
        ("iid", 5, 4, "5 workers are too many for 4 samples"),
        ("size:ratio=1000", 4, 50, "worker 0 of 4 would have none of the 50 samples"),
        ("labels", 2, 50, "no labels; take iid or size"),
        ("dirichlet:alpha=1", 2, 50, "no labels; take iid or size"),
        ("size:ratio=0.5", 2, 50, "ratio is 0.5; it must be at least 1"),
        ("dirichlet:alpha=0", 2, 50, "alpha is 0; it must be more than 0"),
        ("labels:classes=0", 2, 50, "classes is 0; it must be at least 1"),
        ("random", 2, 50, "--split: unknown name 'random'; allowed: iid, labels, dirichlet, size"),
    ],
)
def test_impossible_splits_are_refused(text, n, n_total, reason):
    with pytest.raises(UserError, match=reason):
        deal(text, None, n, 0, n_total)


def test_a_worker_left_out_by_dirichlet_is_an_error():
    with pytest.raises(UserError, match=r"dirichlet:alpha=0.001: worker \d+ of 12 would have none"):
        deal("dirichlet:alpha=0.001", LABELS, 12, seed=0)


def test_canonical_writes_the_defaults_out():
    assert canonical("iid") == "iid"
    assert canonical("labels") == canonical("labels:classes=2") == "labels:classes=2"
    assert canonical("dirichlet:alpha=0.10") == "dirichlet:alpha=0.1"
