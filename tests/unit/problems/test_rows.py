"""Sums over the rows of a matrix: constants, minima and files against dense matrices, SciPy and scikit-learn."""

import bz2
import gzip
import lzma
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import shares
from scipy.optimize import minimize
from scipy.sparse import random_array
from sklearn.datasets import dump_svmlight_file, load_digits, load_svmlight_file
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from outpace.benchmarks.problems import logistic, rows
from outpace.benchmarks.problems.data_files import read_libsvm
from outpace.benchmarks.problems.rows import unit
from outpace.comm import memory
from outpace.comm.errors import UserError
from outpace.comm.topology import mixing_matrix

TEXTS = (
    "logistic:samples=60,dim=5,weight=0.3",
    "logistic:samples=60,dim=5,weight=0.3,penalty=nonconvex",
    "pca:samples=60,dim=5,decay=1",
    "pca:samples=60,dim=1",
    "svd:samples=60,dim=5,rank=2",
)


def mean_gradient(text: str, n: int, split: str, x: np.ndarray) -> np.ndarray:
    """(1/n) sum of the workers' full gradients: the gradient of the suite's objective."""
    g, total = np.empty_like(x), np.zeros_like(x)
    for share in shares(text, n, split=split):
        share.gradient(x, None, g)
        total += g / n
    return total


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("n", "split"), [(4, "iid"), (7, "iid"), (3, "size:ratio=5")])
def test_the_objective_is_that_of_one_worker(text: str, n: int, split: str) -> None:
    """Whatever the workers hold. Equal weights of unequal shares would make another objective."""
    x = np.random.default_rng(3).standard_normal(shares(text, 1)[0].dim)
    np.testing.assert_allclose(mean_gradient(text, n, split, x), mean_gradient(text, 1, "iid", x), rtol=0, atol=1e-14)
    everyone = shares(text, n, split=split)
    assert np.mean([share.loss(x) for share in everyone]) == pytest.approx(shares(text, 1)[0].loss(x), abs=1e-13)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_iid_deals_the_same_order_to_any_number_of_workers(n: int) -> None:
    whole = shares("pca:samples=50,dim=4", 1)[0].X
    np.testing.assert_array_equal(np.concatenate([share.X for share in shares("pca:samples=50,dim=4", n)]), whole)


def hessians(text: str, x: np.ndarray) -> np.ndarray:
    """Of every f_j at x, by differences of its gradient, shape (N, dim, dim)."""
    (problem,) = shares(text, 1)
    g, h = np.empty_like(x), np.empty_like(x)
    columns = []
    for e in 1e-5 * np.eye(len(x)):
        column = []
        for j in range(problem.n_samples):
            problem.gradient(x + e, np.array([j]), g)
            problem.gradient(x - e, np.array([j]), h)
            column.append((g - h) / 2e-5)
        columns.append(column)
    return np.moveaxis(np.array(columns), 0, 2)


def test_smoothness_of_shift_and_invert_is_exact() -> None:
    """L the largest, L_mean_square with E |H_j u|^2 <= L^2 |u|^2 attained, mu the smallest eigenvalue of the mean; and
    every f_j is non-convex, which is what the problem is for."""
    text = "pca:samples=60,dim=5,gap=0.01"
    (problem,) = shares(text, 1)
    H = hessians(text, np.zeros(5))
    eigenvalues = np.linalg.eigvalsh(H)
    assert pytest.approx(np.abs(eigenvalues).max(), rel=1e-6) == problem.L
    assert problem.L_mean_square == pytest.approx(np.linalg.eigvalsh(np.mean(H @ H, axis=0))[-1] ** 0.5, rel=1e-6)
    assert problem.mu == pytest.approx(np.linalg.eigvalsh(H.mean(axis=0))[0], rel=1e-6)
    assert (eigenvalues[:, 0] < 0).all()
    np.testing.assert_allclose(H.mean(axis=0) @ problem.x_star, problem._b, atol=1e-8)


@pytest.mark.parametrize("text", [*TEXTS[:2], "pca:data=digits,centre=1,gap=0.01"])
def test_smoothness_bounds(text: str) -> None:
    """At random points no Hessian exceeds L, their mean square not L_mean_square, the mean is no flatter than mu."""
    rng = np.random.default_rng(5)
    (problem,) = shares(text, 1)
    if problem.dim > 5:  # too many for differences: f_j is shift/2 |x|^2 - (a_j'x)^2 / 2 - b'x
        lengths, C = np.square(problem.X).sum(axis=1), problem.X.T @ problem.X / problem.n_total
        assert max(problem.shift, lengths.max() - problem.shift) - 1e-12 <= problem.L
        square = problem.shift**2 * np.eye(64) + problem.X.T @ (
            (lengths - 2 * problem.shift)[:, None] * problem.X
        ) / len(lengths)
        assert problem.L_mean_square**2 >= np.linalg.eigvalsh(square)[-1]
        assert np.linalg.eigvalsh(problem.shift * np.eye(64) - C)[0] == pytest.approx(problem.mu)
        return
    for scale in (0.0, 1.0, 10.0):
        H = hessians(text, scale * rng.standard_normal(problem.dim))
        assert np.abs(np.linalg.eigvalsh(H)).max() <= problem.L + 1e-8
        assert np.linalg.eigvalsh(np.mean(H @ H, axis=0))[-1] <= problem.L_mean_square**2 + 1e-8
        assert np.linalg.eigvalsh(H.mean(axis=0))[0] >= problem.mu - 1e-8


def test_logistic_minimum_against_scikit_learn() -> None:
    (problem,) = shares("logistic:samples=300,dim=6,weight=0.01", 1)
    model = LogisticRegression(C=1 / (0.01 * 300), fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(problem.X, problem.y)
    np.testing.assert_allclose(problem.x_star, model.coef_[0], atol=1e-6)
    assert problem.f_star == pytest.approx(problem.loss(problem.x_star), abs=1e-15)
    assert problem.f_star <= problem.loss(model.coef_[0]) + 1e-14
    assert 0.05 < (problem.y * (problem.X @ problem.x_star) < 0).mean() < 0.5  # neither separable nor noise


@pytest.mark.parametrize("text", ["logistic:samples=80,dim=4,weight=0.2", "pca:samples=80,dim=4,gap=0.1"])
def test_minima_against_scipy(text: str) -> None:
    (problem,) = shares(text, 1)
    found = minimize(problem.loss, problem.x0(), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(found.x, problem.x_star, atol=1e-5)
    assert found.fun == pytest.approx(problem.f_star, abs=1e-9)


def test_hessian_products_are_those_of_the_gradient() -> None:
    for penalty in ("l2", "nonconvex"):
        (problem,) = shares(f"logistic:samples=40,dim=5,weight=0.3,penalty={penalty}", 1)
        rng = np.random.default_rng(2)
        x, v, batch = rng.standard_normal(5), rng.standard_normal(5), np.array([3, 3, 17])
        h, d = problem.curvatures(x)
        product, up, down = (np.empty(5) for _ in range(3))
        problem.product(h, v, batch, product)
        problem.gradient(x + 1e-5 * v, batch, up)
        problem.gradient(x - 1e-5 * v, batch, down)
        np.testing.assert_allclose(product + d * v, (up - down) / 2e-5, atol=1e-8)


def test_components_of_digits_are_scikit_learns() -> None:
    (problem,) = shares("svd:data=digits,centre=1,rank=3", 1)
    model = PCA(3, svd_solver="full").fit(load_digits().data)
    signs = np.sign((problem.components * model.components_).sum(axis=1))
    np.testing.assert_allclose(problem.components, signs[:, None] * model.components_, atol=1e-10)
    ratios = problem.eigenvalues / problem.eigenvalues[0]
    np.testing.assert_allclose(ratios, model.explained_variance_ / model.explained_variance_[0])
    assert problem.loss(problem.components.ravel()) == pytest.approx(problem.f_star, rel=1e-12)
    assert problem.loss(problem.x0()) > 1.2 * problem.f_star


@pytest.fixture
def digits_file(tmp_path: Path) -> Path:
    """Digits as a LIBSVM file: is the digit below 5?"""
    pixels, labels = load_digits(return_X_y=True)
    dump_svmlight_file(pixels, np.where(labels < 5, 1, -1), str(tmp_path / "digits.txt"), zero_based=False)
    return tmp_path / "digits.txt"


def test_libsvm_files_against_scikit_learn(digits_file: Path) -> None:
    X, y = read_libsvm(digits_file, "test")
    expected, labels = load_svmlight_file(str(digits_file), zero_based=False)
    np.testing.assert_array_equal(X.toarray(), expected.toarray())
    np.testing.assert_array_equal(y, labels)
    everyone = shares(f"libsvm:path={digits_file},weight=0.01", 3)
    assert sum(share.n_samples for share in everyone) == everyone[0].n_total == 1797
    assert max(np.square(share.X).sum(axis=1).max() for share in everyone) == pytest.approx(1)
    total = sum(share.X.sum(axis=0) for share in everyone)
    np.testing.assert_allclose(total, X.sum(axis=0) / np.linalg.norm(X.toarray(), axis=1).max())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("+1 1:2 3:x\n", "line 1: not of the form"),
        ("+1 1:2\n\n-1 2\n", "line 3: not of the form"),
        ("one 1:2\n", "line 1: not of the form"),
        ("+1 1:2:3\n", "line 1: not of the form"),
        ("+1 -1:2\n", "line 1: not of the form"),
        ("+1 1.0:2\n", "line 1: not of the form"),
        ("+1 qid:3 1:2\n", "line 1: not of the form"),
        ("+1 1:2\n\n-1 3:1 2:1 3:4\n", "line 3: index 3 stands there twice"),
        ("+1 0:2\n-1 0:1 0:1\n", "line 2: index 0 stands there twice"),
        ("+1 1:inf\n", "line 1: a number is not finite"),
        ("+1 1:2\nnan 1:2\n", "line 2: a number is not finite"),
        ("+1 1:2\n0 1:3\n-1 1:3", r"has the label\(s\) -1, 0, 1; there must be two"),
        ("3 1:2\n3 1:3\n", r"has the label\(s\) 3; there must be two"),
        ("+1 1:2\n-1 99999999999999999999:3\n", r"has the index 1e\+20; it must be at most"),
        ("+1 1:0\n-1 2:0\n", "all numbers of the rows are zero"),
        ("# nothing\n", "holds no data"),
        ("+1\n-1\n", "holds no data"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        shares(f"libsvm:path={path}", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("libsvm:path=/nowhere/a.txt", "cannot read /nowhere/a.txt"),
        ("pca:dim=3", "needs samples= and dim="),
        ("pca:data=digits,samples=3", "are of made data"),
        ("svd:samples=9,dim=3,rank=3", "rows of 3 numbers allow less than 3"),
        ("logistic:samples=9,dim=3,penalty=l1", "allowed: l2, nonconvex"),
        ("pca:samples=2,dim=3", "4 workers are too many"),
    ],
)
def test_what_cannot_be_made(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        shares(text, 4)


def test_comments_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("# made by hand\n+1 2:0.5 # first\n\n-1 1:-2\n")
    X, y = read_libsvm(tmp_path / "data.txt", "test")
    np.testing.assert_array_equal(X.toarray(), [[0, 0.5], [-2, 0]])
    np.testing.assert_array_equal(y, [1, -1])


PLAIN = b"+1 1:0.5 3:2\n-1 2:-1\n-1\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PLAIN, ""),
        (b"\xef\xbb\xbf" + PLAIN, ""),
        (PLAIN.replace(b"\n", b"\r\n"), ""),
        (gzip.compress(PLAIN, mtime=0), ""),
        (bz2.compress(PLAIN), ""),
        (lzma.compress(PLAIN), ""),
        (gzip.compress(b"\xef\xbb\xbf" + PLAIN, mtime=0), ""),
        (b"1 1:0.5 3:2\n0 2:-1\n0\n", "labels 0 and 1 were read as -1 and +1"),
        (b"2 1:0.5 3:2\n1 2:-1\n1\n", "labels 1 and 2 were read as -1 and +1"),
        (b"4 1:0.5 3:2\n2 2:-1\n2\n", "labels 2 and 4 were read as -1 and +1"),
        (b"+1 0:0.5 2:2\n-1 1:-1\n-1\n", "indices start at 0"),
        (b"+1 3:2 1:0.5\n-1 2:-1\n-1\n", "indices out of order were sorted"),
    ],
)
def test_what_is_unambiguous_is_accepted_and_what_was_done_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    (problem,) = shares(f"libsvm:path={path}", 1)
    order = np.argsort(-problem.y, kind="stable")
    np.testing.assert_allclose(problem.X[order][0] * 4.25**0.5, [0.5, 0, 2])
    assert sorted(np.abs(problem.X).sum(axis=1)) == pytest.approx([0, 1 / 4.25**0.5, 2.5 / 4.25**0.5])
    assert problem.y.sum() == -1
    printed = capsys.readouterr().err
    assert printed.count("\n") == bool(said)
    assert said in printed


@pytest.mark.parametrize("how", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_is_cut(tmp_path: Path, how: Callable[[bytes], bytes]) -> None:
    rows = "".join(f"{2 * (j % 2) - 1} 1:{np.pi * j!r} 2:{np.e * j!r}\n" for j in range(1, 400)).encode()
    (tmp_path / "data").write_bytes(how(rows)[:-100])
    with pytest.raises(UserError, match=r"cannot read .*data: "):
        read_libsvm(tmp_path / "data", "test")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    """At once: to open a pipe that nobody writes waits for ever, /dev/zero has no end."""
    path = tmp_path / "data"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"cannot read .*: it is a {kind}, not a regular file"):
        shares(f"libsvm:path={path}", 2)
    with pytest.raises(UserError, match=f"cannot read .*: it is a {kind}, not a regular file"):
        mixing_matrix(f"file:path={path}", 2)


def test_a_file_that_would_fill_the_memory_is_refused_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one that is compressed grows a thousandfold."""
    (tmp_path / "data.gz").write_bytes(gzip.compress(b"+1 1:1 2:1 3:1\n" * 50_000, mtime=0))
    monkeypatch.setattr(memory, "of_node", lambda: 2e6)
    with pytest.raises(UserError, match=r"needs more memory than there is: 2 MB"):
        read_libsvm(tmp_path / "data.gz", "test")


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_rows_whose_squares_are_no_numbers(tmp_path: Path, scale: float) -> None:
    (tmp_path / "data").write_text(f"+1 1:{3 * scale}\n-1 1:{scale} 2:{scale}\n")
    (problem,) = shares(f"libsvm:path={tmp_path / 'data'}", 1)
    np.testing.assert_allclose(problem.X, [[1, 0], [1 / 3, 1 / 3]])


def test_centred_rows_of_zeros_are_refused_and_one_among_others_stays_zero() -> None:
    with pytest.raises(UserError, match="all numbers of the rows are zero"):
        shares("pca:samples=1,dim=3,centre=1", 1)
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


@pytest.fixture
def wide_file(tmp_path: Path) -> Path:
    """40 rows of 12,000 columns, ten numbers in each."""
    rng = np.random.default_rng(4)
    X = random_array((40, 12_000), density=10 / 12_000, rng=rng, format="csr")
    X.data[X.indptr[7] : X.indptr[8]] = 0
    dump_svmlight_file(X, rng.choice([-1, 1], 40), str(tmp_path / "wide.txt"), zero_based=False)
    return tmp_path / "wide.txt"


@pytest.mark.parametrize("penalty", ["l2", "nonconvex"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_rows_are_as_dense_ones(
    wide_file: Path, monkeypatch: pytest.MonkeyPatch, penalty: str, dtype: str
) -> None:
    """Losses, gradients, products and curvatures of every worker, and the constants."""
    text = f"libsvm:path={wide_file},weight=0.01,penalty={penalty}"
    sparse = shares(text, 3, dtype, "size:ratio=3")
    monkeypatch.setattr(rows, "SOLVABLE", math.inf)
    monkeypatch.setattr(logistic, "SOLVABLE", 0)
    dense = shares(text, 3, dtype, "size:ratio=3")
    rng = np.random.default_rng(1)
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-14}
    for one, other in zip(sparse, dense, strict=True):
        assert isinstance(other.X, np.ndarray)
        assert not isinstance(one.X, np.ndarray)
        assert one.X.dtype == other.X.dtype == dtype
        for x in (one.x0(), rng.standard_normal(one.dim).astype(dtype), rng.standard_normal(one.dim)):
            np.testing.assert_allclose(one.loss(x), other.loss(x), **close)
            for batch in (None, np.array([0, 3, 3, 5])):
                g, h = np.empty_like(x), np.empty_like(x)
                one.gradient(x, batch, g)
                other.gradient(x, batch, h)
                np.testing.assert_allclose(g, h, **close)
                curvatures = [share.curvatures(x)[0] for share in (one, other)]
                np.testing.assert_allclose(*curvatures, **close)
                one.product(curvatures[0], x, batch, g)
                other.product(curvatures[1], x, batch, h)
                np.testing.assert_allclose(g, h, **close)
        assert (one.n_samples, one.n_total, one.dim, one.mu) == (other.n_samples, 40, other.dim, other.mu)
        np.testing.assert_array_equal(one.label_counts, other.label_counts)
        assert pytest.approx(other.L) == one.L


@pytest.mark.parametrize("shape", [(30, 1500), (1500, 1200), (1, 1300)])
@pytest.mark.parametrize("sparse", [True, False])
def test_largest_eigenvalue_of_wide_rows_is_a_close_bound(shape: tuple[int, int], sparse: bool) -> None:
    X = random_array(shape, density=0.02, rng=np.random.default_rng(2), format="csr")
    exact = np.linalg.svd(X.toarray(), compute_uv=False)[0] ** 2 / shape[0]
    found = rows.largest_eigenvalue(X if sparse else X.toarray())
    assert exact * (1 - 1e-12) <= found <= exact * (1 + 2 * rows.PRECISION)
