"""Whole vectors in one pass: what programs do to their models, gradients and messages, coordinate by coordinate.

An operation is written once, as the formula of one coordinate, and `like(x)` makes the function of it for arrays like
x: for NumPy arrays a loop in C, or where there is no compiler NumPy on blocks that stay in the cache; for CuPy arrays
an elementwise kernel. Long vectors wait for memory, so every operation says how many bytes a coordinate takes in
float32: 4 for each vector that is read, 4 for each that is written.

As with NumPy, numbers come first and results last; those are written in place. All vectors are contiguous and of the
size and type of the last one, to which the numbers are rounded. No operation of a formula is reordered or contracted,
so all forms agree to the bit; but for a `Mean`, which NumPy sums up in an order of its own.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from outpace.comm import native
from outpace.comm.arrays import module
from outpace.comm.cuda import C_NAMES

# The kinds of a formula's parameters, beside numbers, `float`.
Vector = Any  # a coordinate of a vector, shape (dim,)
Mean = Any  # a coordinate of sum_r weights[r] rows[r]; the argument is (weights, rows), shapes (m,) and (m, dim)

sqrt: Final = np.sqrt  # of a formula

UFUNCS: Final = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
BLOCK: Final = 1 << 13  # coordinates that stay in the cache from one look at them to the next
# So many where a mean of many rows is summed up first. In longer blocks the rows are read one after the other for so
# long that a processor forgets to fetch the others beforehand: with 8192 a pass takes twice as long.
BLOCK_OF_MEAN: Final = 1 << 10
FEW: Final = 4  # rows that a loop reads all at once

# An operation by NumPy, block by block; the whole of a short vector is one block. Arguments are named like NAME_.
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
# The same in C. `given` are the arguments; where one is a mean, its weights, rows and their count are called so.
IN_C: Final = """
typedef {real} T;
enum {{ TYPE = {type}, BLOCK_OF_MEAN = {block}, LANES = 32 / sizeof(T) }};
{header}
static PyObject *call(PyObject *module, PyObject *const *given, Py_ssize_t arguments)
{{
    if (arguments != {arguments} || !PyArray_Check(given[{arguments} - 1]))
        return PyErr_Format(PyExc_TypeError, "{name} has {arguments} arguments, the last one an array");
    const npy_intp size = PyArray_SIZE((PyArrayObject *)given[{arguments} - 1]);
    ...checked
    PyThreadState *released = size >= LONG_PASS ? PyEval_SaveThread() : NULL;
    ...loops
    if (released)
        PyEval_RestoreThread(released);
    Py_RETURN_NONE;
}}
"""
# Of 32 bytes at a time: with wider ones some processors write several vectors a quarter more slowly.
COORDINATES: Final = """
#pragma omp simd simdlen(LANES)
for (npy_intp i = {begin}; i < {end}; ++i) {{
    ...of_coordinates
    ...statements
    ...to_coordinates
}}
"""
OF_MEAN: Final = """
switch (count) {
...cases
default:
    for (npy_intp start = 0; start < size; start += BLOCK_OF_MEAN) {
        const npy_intp end = size < start + BLOCK_OF_MEAN ? size : start + BLOCK_OF_MEAN;
        T sum[BLOCK_OF_MEAN];
        sum_rows(weights, rows + start, count, size, end - start, sum);
        ...of_sum
    }
}
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

    def like(self, x: Any) -> Callable[..., None]:
        """The operation on arrays like x, compiled and ready."""
        if module(x) is not np:
            return kernel(self, x.dtype)
        try:
            return loop(self, x.dtype)
        except native.Unbuilt:
            return self.by_blocks

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
        vectors, means, last = self.names("Vector"), self.names("Mean"), list(self.kinds)[-1]
        unequal = [f"{name}_.size != {last}_.size" for name in vectors]
        unequal += [f"{name}_[1].shape[1] != {last}_.size" for name in means]
        blocks = [f"{name} = {name}_ if short else {name}_[start : start + BLOCK]" for name in vectors]
        blocks += [f"{name} = {name}_weights.dot({name}_rows[:, start : start + BLOCK])" for name in means]
        stretches = {
            "numbers": [f"{name} = {last}_.dtype.type({name}_)" for name in self.names("float")],
            "check": [f"if {' or '.join(unequal)}: raise ValueError('the vectors differ in size')"],
            "begun": [f"{name}_weights, {name}_rows = {name}_" for name in means],
            "blocks": blocks,
            "in_place": self.in_place,
        }
        arguments = ", ".join(f"{name}_" for name in self.kinds)
        text = "\n".join(filled(BY_BLOCKS.format(name=self.__name__, arguments=arguments, last=last), stretches))
        scope = {"__name__": __name__, "BLOCK": BLOCK, "sqrt": sqrt}
        scope |= {name: getattr(np, name) for name in UFUNCS.values()}
        exec(compile(text, __file__, "exec"), scope)
        return scope[self.__name__]  # type: ignore[return-value]

    def names(self, *kinds: str) -> list[str]:
        """The parameters of these kinds."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    @functools.cached_property
    def in_c(self) -> list[str]:
        """The assignments in C."""
        return [f"{'' if each.split()[0] in self.kinds else 'T '}{each};" for each in self.statements]


def filled(template: str, stretches: dict[str, list[str]]) -> list[str]:
    """The template's lines, with others for each `...name`."""
    lines = []
    for line in template.strip().splitlines():
        indent, _, name = line.partition("...")
        lines += [indent + each for each in stretches[name]] if name else [line]
    return lines


@functools.cache
def loop(operation: Fused, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The operation in C, compiled. Raises native.Unbuilt."""
    checked = []
    for i, (name, kind) in enumerate(operation.kinds.items()):
        if kind == "float":
            checked += [f"T {name} = PyFloat_AsDouble(given[{i}]);", "if (PyErr_Occurred()) return NULL;"]
        elif kind == "Vector":
            checked += [f"T *{name}_ = data(given[{i}], 1, size);", f"if (!{name}_) return NULL;"]
        else:
            checked += ["T *weights, *rows;", "npy_intp count;"]
            checked.append(f"if (!mean_data(given[{i}], size, &weights, &rows, &count)) return NULL;")
    means = operation.names("Mean")
    loops = _of_mean(operation) if means else _coordinates(operation)
    frame = IN_C.format(
        name=operation.__name__,
        arguments=len(operation.kinds),
        real=C_NAMES[dtype.name],
        type=dtype.num,
        block=BLOCK_OF_MEAN,
        header=Path(__file__).with_suffix(".h").read_text(),
    )
    return native.function(operation.__name__, "\n".join(filled(frame, {"checked": checked, "loops": loops})))


def uncompiled(dtype: str) -> str:
    """Why NumPy does the operations on its arrays; nothing where they are compiled."""
    try:
        loop(descend, np.dtype(dtype))
    except native.Unbuilt as error:
        return str(error)
    return ""


def _coordinates(operation: Fused, mean: str = "", begin: str = "0", end: str = "size") -> list[str]:
    """The loop over the coordinates, of which `mean` is that of the mean."""
    given = [f"T {name} = {name}_[i];" for name in operation.names("Vector")]
    given += [f"T {name} = {mean};" for name in operation.names("Mean")]
    to_coordinates = [f"{name}_[i] = {name};" for name in operation.results]
    stretches = {"of_coordinates": given, "statements": operation.in_c, "to_coordinates": to_coordinates}
    return filled(COORDINATES.format(begin=begin, end=end), stretches)


def _of_mean(operation: Fused) -> list[str]:
    """The same loop for means of each small number of rows, and after a sum, block by block, for all others."""
    cases = []
    for rows in range(1, FEW + 1):
        weights = [f"const T weight{r} = weights[{r}];" for r in range(rows)]
        lines = _coordinates(operation, " + ".join(f"weight{r} * rows[{r} * size + i]" for r in range(rows)))
        cases += [f"case {rows}: {{", *weights, *lines, "break;", "}"]
    of_sum = _coordinates(operation, "sum[i - start]", "start", "end")
    return filled(OF_MEAN, {"cases": cases, "of_sum": of_sum})


@functools.cache
def kernel(operation: Fused, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The operation as a kernel of the device, compiled."""
    import cupy

    numbers, results, means = operation.names("float"), operation.results, operation.names("Mean")
    inputs = [name for name in operation.names("Vector") if name not in results]
    statements = [MEAN_ON_DEVICE.format(mean=mean) for mean in means]
    statements += operation.in_c
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
