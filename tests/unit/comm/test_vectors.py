"""The fused operations against NumPy's own words for them, in all their forms: by blocks, in C, on a device."""

import ast
import functools
import inspect
import re
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import cuda_on_cpu
import device_on_cpu
import numpy as np
import pytest

from outpace.comm import native, vectors

OPERATIONS = {name: each for name, each in vars(vectors).items() if isinstance(each, vectors.Fused)}


# What each does, in NumPy. A mean is a vector here.


def descend(gamma: Any, n: Any, g: Any, x: Any) -> None:
    x -= gamma * (g / n)


def descend_to(gamma: Any, g: Any, x: Any, h: Any) -> None:
    h[:] = x - gamma * g


def descend_and_answer(gamma: Any, x: Any, g: Any) -> None:
    x -= gamma * g
    g[:] = x


def momentum(beta: Any, gamma: Any, n: Any, g: Any, v: Any, x: Any) -> None:
    v[:] = beta * v + g / n
    x -= gamma * v


def blend(kept: Any, added: Any, g: Any, m: Any) -> None:
    m[:] = kept * m + added * g


def look_ahead(delta: Any, x: Any, v: Any, ahead: Any) -> None:
    v *= delta
    ahead[:] = x + v


def fall(gamma: Any, g: Any, v: Any, x: Any) -> None:
    v -= gamma * g
    x += v


def adam(
    beta1: Any,
    rest1: Any,
    beta2: Any,
    rest2: Any,
    bias2: Any,
    epsilon: Any,
    gamma: Any,
    decay: Any,
    n: Any,
    g: Any,
    m: Any,
    v: Any,
    x: Any,
) -> None:
    g = g / n
    m[:] = beta1 * m + rest1 * g
    v[:] = beta2 * v + rest2 * g**2
    x[:] = decay * x - gamma * (m / (np.sqrt(v / bias2) + epsilon))


def penalise(weight: Any, n: Any, x: Any, g: Any) -> None:
    g[:] = g / n + weight * x


def mix(own: Any, h: Any, others: Any, x: Any) -> None:
    x[:] = own * h + others


def mix_and_descend(own: Any, gamma: Any, g: Any, others: Any, x: Any) -> None:
    x[:] = own * x + others - gamma * g


def d2_message(gamma: Any, g: Any, x: Any, c: Any, h: Any) -> None:
    h[:] = x - gamma * g + c


def d2_mix(own: Any, gamma: Any, g: Any, h: Any, others: Any, c: Any, x: Any) -> None:
    mixed = own * h + others
    c[:] = mixed - x + gamma * g
    x[:] = mixed


def track(gamma: Any, mixed_y: Any, mixed_x: Any, g: Any, before: Any, y: Any, x: Any) -> None:
    y[:] = mixed_y + g - before
    x[:] = mixed_x - gamma * y
    before[:] = g


def add_difference(r: Any, s: Any, x: Any) -> None:
    x += r - s


def pull(alpha: Any, y: Any, x: Any) -> None:
    x += alpha * (y - x)


def pull_and_answer(alpha: Any, y: Any, x: Any) -> None:
    old = x.copy()
    x += alpha * (y - x)
    y[:] = old


def given(operation: vectors.Fused, size: int, dtype: Any, rows: int = 3) -> list[Any]:
    """Random arguments; numbers are already rounded to the type."""
    rng = np.random.default_rng([7, size])

    def one(kind: str) -> Any:
        if kind == "float":
            return dtype(rng.uniform(0.1, 2))
        if kind == "Vector":
            return rng.uniform(0.1, 2, size).astype(dtype)
        return rng.uniform(0, 1, rows).astype(dtype), rng.standard_normal((rows, size)).astype(dtype)

    return [one(kind) for kind in operation.kinds.values()]


def copied(arguments: list[Any]) -> list[Any]:
    return [each.copy() if isinstance(each, np.ndarray) else each for each in arguments]


def check(operation: vectors.Fused, run: Any, arguments: list[Any]) -> None:
    """Every argument is afterwards what NumPy makes of it: to the bit, unless there is a mean."""
    expected, mine = copied(arguments), copied(arguments)
    dtype = arguments[-1].dtype
    apart = {"rtol": 16 * np.finfo(dtype).eps, "atol": 16 * np.finfo(dtype).eps} if operation.names("Mean") else {}
    as_vectors = [
        sum(w * row for w, row in zip(*each, strict=True)) if isinstance(each, tuple) else each for each in expected
    ]
    globals()[operation.__name__](*as_vectors)
    run(*mine)
    for name, one, other in zip(operation.kinds, mine, expected, strict=True):
        if isinstance(one, np.ndarray):
            assert np.allclose(one, other, **apart) if apart else np.array_equal(one, other), name


def on_device(form: Any, cupy: Any) -> Any:
    """The form of a device, called with NumPy arrays."""

    def to_device(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(to_device, value))
        return device_on_cpu.DeviceArray(cupy.device, value) if isinstance(value, np.ndarray) else value

    def call(*arguments: Any) -> None:
        form(*map(to_device, arguments))
        cupy.device.current.finish()

    return call


def test_all_have_a_reference() -> None:
    assert len(OPERATIONS) > 15
    assert all(inspect.isfunction(globals()[name]) for name in OPERATIONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_by_blocks(operation: vectors.Fused, dtype: Any) -> None:
    for size in (0, 1, vectors.BLOCK, 2 * vectors.BLOCK + 3):
        check(operation, operation.by_blocks, given(operation, size, dtype))


def test_numpy_writes_a_result_where_it_belongs() -> None:
    """Not into an array of its own, from which it would be copied: that is a pass of four."""

    class Told(np.ndarray):
        copies = 0

        def __setitem__(self, *item: Any) -> None:
            Told.copies += 1
            super().__setitem__(*item)

    x = np.ones(vectors.BLOCK).view(Told)
    vectors.descend.by_blocks(0.25, 2, np.ones(vectors.BLOCK), x)
    assert Told.copies == 0
    assert (x == 0.875).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_compiled(operation: vectors.Fused, dtype: Any) -> None:
    """Also where Python's lock is released, and with as many rows as are read at once, and more."""
    form = operation.like(np.empty(0, dtype))
    assert form is not operation.by_blocks
    for size in (0, 1, 7, vectors.BLOCK_OF_MEAN, 20_003):
        for rows in (1, 2, vectors.FEW, vectors.FEW + 1) if operation.names("Mean") else (0,):
            check(operation, form, given(operation, size, dtype, rows))


@pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_on_a_device(operation: vectors.Fused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cupy = device_on_cpu.install(monkeypatch, tmp_path)
    for dtype in (np.float32, np.float64) if operation is vectors.adam else (np.float32,):
        arguments = given(operation, 37, dtype)
        check(
            operation, on_device(operation.like(device_on_cpu.DeviceArray(cupy.device, arguments[-1])), cupy), arguments
        )


def forms(operation: vectors.Fused) -> list[Any]:
    """In float64, of NumPy arrays."""
    return [operation.by_blocks, operation.like(np.empty(0))]


@pytest.mark.parametrize("mix_and_descend", forms(vectors.mix_and_descend))
def test_a_mean_of_nothing_is_zero(mix_and_descend: Any) -> None:
    """As that of a worker alone."""
    x, nothing = np.ones(10), (np.zeros(0), np.zeros((0, 10)))
    mix_and_descend(0.5, 0.25, np.ones(10), nothing, x)
    assert np.array_equal(x, np.full(10, 0.25))


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("form", [0, 1])
def test_sizes_must_fit(form: int, size: int) -> None:
    """A loop that trusted them would write beyond the end."""
    x, fits, short = np.zeros(size), np.ones(size), np.ones(size - 1)
    with pytest.raises(ValueError, match="differ in size"):
        forms(vectors.descend)[form](0.1, 1, short, x)
    for weights, rows in [(np.ones(1), short[None]), (np.ones(2), fits[None])]:
        with pytest.raises(ValueError, match=r"differ in size|not aligned"):
            forms(vectors.mix)[form](0.5, fits, (weights, rows), x)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.5, 1, np.ones(3, np.float32), np.zeros(3)),
        (0.5, 1, np.ones(6)[::2], np.zeros(3)),
        (0.5, 1, np.ones((1, 3)), np.zeros(3)),
        (0.5, 1, [1.0, 1.0, 1.0], np.zeros(3)),
        (0.5, "1", np.ones(3), np.zeros(3)),
        (0.5, 1, np.ones(3), 0.0),
        (0.5, np.ones(3), np.zeros(3)),
    ],
    ids=["type", "gaps", "shape", "list", "text", "number", "count"],
)
def test_a_compiled_loop_takes_what_it_was_made_for_alone(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        vectors.descend.like(np.empty(0))(*arguments)


def test_a_compiled_loop_does_not_write_where_nobody_may() -> None:
    x = np.zeros(3)
    x.flags.writeable = False
    with pytest.raises(TypeError):
        vectors.descend.like(x)(0.5, 1, np.ones(3), x)


def test_a_compiled_mean_is_a_pair() -> None:
    mix, x = vectors.mix.like(np.empty(0)), np.zeros(3)
    for others in (x, (x,), (1.0, x[None]), (np.ones(1, np.float32), x[None]), (np.ones(1), x)):
        with pytest.raises(TypeError):
            mix(0.5, x, others, x)


def test_a_long_pass_lets_other_threads_run() -> None:
    """As an exchange beside a gradient; a short one is over before."""
    x, done, looks = np.zeros(20_000_000), threading.Event(), 0

    def descend() -> None:
        vectors.descend.like(x)(0.5, 1, x, x)
        done.set()

    vectors.uncompiled("float64")
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        threading.Thread(target=descend).start()
        while not done.is_set():
            looks += 1
            time.sleep(1e-4)
    finally:
        sys.setswitchinterval(before)
    assert looks > 10


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "loop", functools.cache(vectors.loop.__wrapped__))
    monkeypatch.setattr(native, "function", refused)
    assert vectors.descend.like(np.ones(10)) == vectors.descend.by_blocks
    assert vectors.uncompiled("float32") == "descend: nobody compiles"


def refused(name: str, code: str) -> Any:
    raise native.Unbuilt(f"{name}: nobody compiles")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_the_docstring_says_its_bytes(operation: vectors.Fused) -> None:
    """4 for each vector that is read before it is written, and 4 for each that is written."""
    (formula,) = ast.parse(textwrap.dedent(inspect.getsource(operation._formula))).body
    arrays, means = set(operation.names("Vector")), operation.names("Mean")
    read, written = set(), set()
    assert isinstance(formula, ast.FunctionDef)
    for each in formula.body[1:]:
        assert isinstance(each, ast.Assign)
        used = {node.id for node in ast.walk(each.value) if isinstance(node, ast.Name)}
        read |= (used & arrays) - written
        written |= {ast.unparse(each.targets[0])} & arrays
    text = f"{4 * len(read | set()) + 4 * len(written)} bytes" + (", and 4 for each row." if means else ".")
    assert " ".join(str(operation.__doc__).split()).endswith(text)


def test_formulas_have_no_numbers() -> None:
    """A number in the text would be a double for the compilers, and a float32 for NumPy."""
    for operation in OPERATIONS.values():
        assert not [re.findall(r"\b\d", each) for each in operation.statements if re.search(r"\b\d", each)]
