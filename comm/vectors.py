"""Whole vectors in one pass: what programs do to their models, gradients and messages, coordinate by coordinate.

An operation is written once, as the formula of one coordinate, and `like(x)` makes the function of it for arrays like
x: for long NumPy arrays a loop compiled by numba; for short ones, and where numba has no folder to keep its code in,
NumPy on blocks that stay in the cache; for CuPy arrays an elementwise kernel. Long vectors wait for memory, so every
operation says how many bytes a coordinate takes in float32: 4 for each vector that is read, 4 for each that is written.

As with NumPy, numbers come first and results last; those are written in place. All vectors are contiguous and of the
size and type of the last one, to which the numbers are rounded. No operation of a formula is reordered or contracted,
so all forms agree to the bit; but for a `Mean`, which NumPy sums up in an order of its own.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from outpace.comm.arrays import module

# The kinds of a formula's parameters, beside numbers, `float`.
Vector = Any  # a coordinate of a vector, shape (dim,)
Mean = Any  # a coordinate of sum_r weights[r] rows[r]; the argument is (weights, rows), shapes (m,) and (m, dim)

sqrt: Final = np.sqrt  # of a formula

LONG: Final = 1 << 18  # coordinates that make a compiled loop worth the start of numba, 0.6 s of each rank
UFUNCS: Final = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
BLOCK: Final = 1 << 13  # coordinates that stay in the cache from one look at them to the next
# So many where a mean is summed up in a block. In longer ones the rows are read one after the other for so long that a
# processor forgets to fetch the others beforehand: with 8192 a pass takes twice as long.
BLOCK_OF_MEAN: Final = 1 << 10
FEW: Final = 4  # rows that a loop reads all at once

# An operation block by block: in a block by NumPy, where the whole of a short vector is one block, or by numba,
# coordinate by coordinate. Arguments are named like NAME_, for numba their blocks NAME_part.
BY_BLOCKS: Final = """
def {name}({arguments}):
    ...numbers
    ...check
    ...begun
    short = {last}_.size <= BLOCK
    for start in range(0, {last}_.size, BLOCK):
        ...blocks
        ...in_place
"""
BY_COORDINATES: Final = """
def {name}({arguments}):
    ...numbers
    ...check
    ...begun
    ...buffers
    for start in range(0, {last}_.size, BLOCK):
        ...parts
        ...means
        for i in range({last}_part.size):
            ...of_coordinates
            ...statements
            ...to_coordinates
"""
# A coordinate of a mean on a device, whose rows follow one another in memory.
MEAN_ON_DEVICE: Final = """T {mean} = 0;
for (int r = 0; r < {mean}_weights.size(); ++r)
    {mean} += {mean}_weights[r] * {mean}_rows[r * _ind.size() + i];
"""


class Fused:
    """An operation, from its formula, whose text has no numbers: they would have a type of their own."""

    def __init__(self, formula: Callable[..., Any]) -> None:
        self.__doc__, self.__name__ = formula.__doc__, formula.__name__
        self._formula = formula

    def like(self, x: Any, *rows: int) -> Callable[..., None]:
        """The operation on arrays like x, compiled and ready; `rows` are all the numbers of rows its mean will have."""
        if module(x) is not np:
            return kernel(self, x.dtype)
        return (loop(self, x.dtype, *rows) if x.size >= LONG else None) or self.by_blocks

    @functools.cached_property
    def kinds(self) -> dict[str, str]:
        """The parameters, in order: float, Vector or Mean."""
        return {each.arg: ast.unparse(each.annotation) for each in self._definition.args.args if each.annotation}

    @functools.cached_property
    def statements(self) -> list[str]:
        """The assignments, which mean the same in Python and in C++."""
        return [ast.unparse(each) for each in self._definition.body if isinstance(each, ast.Assign)]

    @functools.cached_property
    def in_place(self) -> list[str]:
        """The same for NumPy: what a result is goes where it belongs, without an array of its own on the way."""
        lines = []
        for each in self._definition.body:
            if isinstance(each, ast.Assign):
                name, value = ast.unparse(each.targets[0]), each.value
                if name not in self.kinds:
                    lines.append(ast.unparse(each))
                elif isinstance(value, ast.BinOp):
                    left, right = ast.unparse(value.left), ast.unparse(value.right)
                    lines.append(f"{UFUNCS[type(value.op)]}({left}, {right}, out={name})")
                else:
                    lines.append(f"{name}[:] = {ast.unparse(value)}")
        return lines

    @functools.cached_property
    def results(self) -> list[str]:
        """The parameters that are assigned to, the last ones."""
        assigned = {each.split()[0] for each in self.statements}
        return [name for name in self.kinds if name in assigned]

    @functools.cached_property
    def _definition(self) -> ast.FunctionDef:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(self._formula))).body
        assert isinstance(definition, ast.FunctionDef)
        return definition

    @functools.cached_property
    def by_blocks(self) -> Callable[..., None]:
        """The operation by NumPy."""
        return self.function(BY_BLOCKS, BLOCK)

    def names(self, *kinds: str) -> list[str]:
        """The parameters of these kinds."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def function(
        self, template: str, block: int, part_of_mean: Callable[..., Any] | None = None, rows: int = 0
    ) -> Callable[..., None]:
        """The function whose text fills a template, for blocks of so many coordinates. For numba a mean is summed up
        block by block, by part_of_mean, or coordinate by coordinate, where its `rows` are known."""
        vectors, means = self.names("Vector"), self.names("Mean")
        last = vectors[-1]
        buffers, parts_of_means, sums = list[str](), list[str](), list[str]()
        for name in means:
            if rows:
                buffers += [f"{name}_weight{r} = {name}_weights[{r}]" for r in range(rows)]
                parts_of_means += [f"{name}_row{r} = {name}_rows[{r}, start : start + BLOCK]" for r in range(rows)]
                sums.append(f"{name} = " + " + ".join(f"{name}_weight{r} * {name}_row{r}[i]" for r in range(rows)))
            else:
                buffers.append(f"{name}_buffer = empty(BLOCK, {last}_.dtype)")
                parts_of_means.append(f"{name}_part = part_of_mean({name}_weights, {name}_rows, start, {name}_buffer)")
                sums.append(f"{name} = {name}_part[i]")
        unequal = [f"{name}_.size != {last}_.size" for name in vectors]
        unequal += [f"{name}_[1].shape[1] != {last}_.size" for name in means]
        unequal += [f"{name}_[0].size != {rows}" for name in means if rows]
        blocks = [f"{name} = {name}_ if short else {name}_[start : start + BLOCK]" for name in vectors]
        blocks += [f"{name} = {name}_weights.dot({name}_rows[:, start : start + BLOCK])" for name in means]
        stretches = {
            "numbers": [f"{name} = {last}_.dtype.type({name}_)" for name in self.names("float")],
            "check": [f"if {' or '.join(unequal)}: raise ValueError('the vectors differ in size')"],
            "begun": [f"{name}_weights, {name}_rows = {name}_" for name in means],
            "blocks": blocks,
            "in_place": self.in_place,
            "buffers": buffers,
            "parts": [f"{name}_part = {name}_[start : start + BLOCK]" for name in vectors],
            "means": parts_of_means,
            "of_coordinates": [f"{name} = {name}_part[i]" for name in vectors] + sums,
            "statements": self.statements,
            "to_coordinates": [f"{name}_part[i] = {name}" for name in self.results],
        }
        lines = []
        for line in template.strip().splitlines():
            indent, _, name = line.partition("...")
            lines += [indent + each for each in stretches[name]] if name else [line]
        text = "\n".join(lines).format(
            name=self.__name__, arguments=", ".join(f"{name}_" for name in self.kinds), last=last
        )
        scope = {"__name__": __name__, "BLOCK": block, "sqrt": sqrt, "empty": np.empty, "part_of_mean": part_of_mean}
        scope |= {name: getattr(np, name) for name in UFUNCS.values()}
        exec(compile(text, __file__, "exec"), scope)  # as of this file, beside which numba keeps what it compiles
        return scope[self.__name__]  # type: ignore[return-value]


def _part_of_mean(weights: Any, rows: Any, start: int, buffer: Any) -> Any:
    """A block of sum_r weights[r] rows[r], for numba."""
    buffer[:] = 0
    for r in range(weights.size):
        weight, row = weights[r], rows[r, start : start + buffer.size]
        for i in range(row.size):
            buffer[i] += weight * row[i]
    return buffer


@functools.cache
def loop(operation: Fused, dtype: np.dtype[Any], *rows: int) -> Callable[..., None] | None:
    """The operation compiled by numba; None where numba is not to be had, or cannot keep what it compiles."""
    try:
        import numba

        compiled: Any = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")
        known = rows[0] if len(rows) == 1 and rows[0] <= FEW else 0
        block = BLOCK_OF_MEAN if operation.names("Mean") and not known else BLOCK
        function = compiled(operation.function(BY_COORDINATES, block, compiled(_part_of_mean), known))
    except (ImportError, RuntimeError):
        return None
    real = numba.from_dtype(dtype)
    vector = numba.types.Array(real, 1, "C")
    mean = numba.types.Tuple((vector, numba.types.Array(real, 2, "C")))
    kinds = {"float": numba.float64, "Vector": vector, "Mean": mean}
    function.compile(tuple(kinds[kind] for kind in operation.kinds.values()))
    function.disable_compile()
    return function  # type: ignore[no-any-return]


@functools.cache
def kernel(operation: Fused, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The operation as a kernel of the device, compiled."""
    import cupy

    numbers, results, means = operation.names("float"), operation.results, operation.names("Mean")
    inputs = [name for name in operation.names("Vector") if name not in results]
    statements = [MEAN_ON_DEVICE.format(mean=mean) for mean in means]
    statements += [f"{'' if each.split()[0] in operation.kinds else 'T '}{each};" for each in operation.statements]
    elementwise = cupy.ElementwiseKernel(
        ", ".join(
            [f"T {name}" for name in numbers + inputs] + [f"raw T {mean}_weights, raw T {mean}_rows" for mean in means]
        ),
        ", ".join(f"T {name}" for name in results),
        "\n".join(statements),
        operation.__name__,
        options=("--fmad=false",),  # products are rounded before they are added, as on the CPU
    )

    def call(*arguments: Any) -> None:
        given = dict(zip(operation.kinds, arguments, strict=True))
        rows = (each for mean in means for each in given[mean])
        elementwise(
            *(float(given[name]) for name in numbers),
            *(given[name] for name in inputs),
            *rows,
            *(given[name] for name in results),
        )

    one = cupy.ones(1, dtype)
    example = {"float": 1.0, "Vector": one, "Mean": (one, one[None])}
    call(*(example[kind] for kind in operation.kinds.values()))
    return call


@Fused
def descend(gamma: float, n: float, g: Vector, x: Vector) -> None:
    """x <- x - gamma g / n. 12 bytes."""
    x = x - gamma * (g / n)


@Fused
def descend_to(gamma: float, g: Vector, x: Vector, h: Vector) -> None:
    """h <- x - gamma g. 12 bytes."""
    h = x - gamma * g


@Fused
def descend_and_answer(gamma: float, x: Vector, g: Vector) -> None:
    """x <- x - gamma g; g <- x. 16 bytes."""
    x = x - gamma * g
    g = x


@Fused
def momentum(beta: float, gamma: float, n: float, g: Vector, v: Vector, x: Vector) -> None:
    """v <- beta v + g / n; x <- x - gamma v. 20 bytes."""
    v = beta * v + g / n
    x = x - gamma * v


@Fused
def blend(kept: float, added: float, g: Vector, m: Vector) -> None:
    """m <- kept m + added g. 12 bytes."""
    m = kept * m + added * g


@Fused
def look_ahead(delta: float, x: Vector, v: Vector, ahead: Vector) -> None:
    """v <- delta v; ahead <- x + v. 16 bytes."""
    v = delta * v
    ahead = x + v


@Fused
def fall(gamma: float, g: Vector, v: Vector, x: Vector) -> None:
    """v <- v - gamma g; x <- x + v. 20 bytes."""
    v = v - gamma * g
    x = x + v


@Fused
def adam(
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    bias2: float,
    epsilon: float,
    gamma: float,
    decay: float,
    n: float,
    g: Vector,
    m: Vector,
    v: Vector,
    x: Vector,
) -> None:
    """m <- beta1 m + rest1 g / n; v <- beta2 v + rest2 (g / n)^2; x <- decay x - gamma m / (sqrt(v / bias2) + epsilon).
    28 bytes."""
    mean = g / n
    m = beta1 * m + rest1 * mean
    v = beta2 * v + rest2 * (mean * mean)
    x = decay * x - gamma * (m / (sqrt(v / bias2) + epsilon))


@Fused
def penalise(weight: float, n: float, x: Vector, g: Vector) -> None:
    """g <- g / n + weight x. 12 bytes."""
    g = g / n + weight * x


@Fused
def mix(own: float, h: Vector, others: Mean, x: Vector) -> None:
    """x <- own h + others. 8 bytes, and 4 for each row."""
    x = own * h + others


@Fused
def mix_and_descend(own: float, gamma: float, g: Vector, others: Mean, x: Vector) -> None:
    """x <- own x + others - gamma g. 12 bytes, and 4 for each row."""
    x = own * x + others - gamma * g


@Fused
def d2_message(gamma: float, g: Vector, x: Vector, c: Vector, h: Vector) -> None:
    """h <- x - gamma g + c. 16 bytes."""
    h = x - gamma * g + c


@Fused
def d2_mix(own: float, gamma: float, g: Vector, h: Vector, others: Mean, c: Vector, x: Vector) -> None:
    """mixed = own h + others; c <- mixed - x + gamma g; x <- mixed. 20 bytes, and 4 for each row."""
    mixed = own * h + others
    c = gamma * g - x + mixed
    x = mixed


@Fused
def track(gamma: float, mixed_y: Vector, mixed_x: Vector, g: Vector, before: Vector, y: Vector, x: Vector) -> None:
    """y <- mixed_y + g - before; x <- mixed_x - gamma y; before <- g. 28 bytes."""
    y = mixed_y + g - before
    x = mixed_x - gamma * y
    before = g


@Fused
def add_difference(r: Vector, s: Vector, x: Vector) -> None:
    """x <- x + (r - s). 16 bytes."""
    x = x + (r - s)


@Fused
def pull(alpha: float, y: Vector, x: Vector) -> None:
    """x <- x + alpha (y - x). 12 bytes."""
    x = x + alpha * (y - x)


@Fused
def pull_and_answer(alpha: float, y: Vector, x: Vector) -> None:
    """x <- x + alpha (y - x), and y <- x as it was. 16 bytes."""
    moved = x + alpha * (y - x)
    y = x
    x = moved
