"""The simple part psi of a composite objective f + psi: its value and its proximal step, by SPEC.

prox_{eta psi}(v) = argmin_y  |y - v|^2 / (2 eta) + psi(y)
"""

from dataclasses import dataclass
from typing import Any, Final

from outpace.comm import spec
from outpace.comm.arrays import module
from outpace.comm.spec import PositiveFloat

INSIDE = 1 + 1e-9  # times the radius: what rounding may add to a projected vector


@dataclass(frozen=True, kw_only=True)
class Prox:
    @property
    def mu(self) -> float:
        """Strong convexity of psi."""
        return 0.0

    def value(self, x: Any) -> float:
        """psi(x)"""
        raise NotImplementedError

    def apply(self, v: Any, eta: float, scratch: Any) -> None:
        """v <- prox_{eta psi}(v); `scratch` is like v and overwritten, so that no step allocates a vector."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Nothing(Prox):
    """psi = 0"""

    def value(self, x: Any) -> float:
        return 0.0

    def apply(self, v: Any, eta: float, scratch: Any) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class L1(Prox):
    """weight |x|_1; the step shrinks every coordinate by eta weight"""

    weight: PositiveFloat

    def value(self, x: Any) -> float:
        return self.weight * float(module(x).abs(x).sum())

    def apply(self, v: Any, eta: float, scratch: Any) -> None:
        shrink = eta * self.weight
        module(v).clip(v, -shrink, shrink, out=scratch)
        v -= scratch


@dataclass(frozen=True, kw_only=True)
class L2(Prox):
    """weight |x|^2 / 2"""

    weight: PositiveFloat

    @property
    def mu(self) -> float:
        return self.weight

    def value(self, x: Any) -> float:
        return 0.5 * self.weight * float(x @ x)

    def apply(self, v: Any, eta: float, scratch: Any) -> None:
        v /= 1 + eta * self.weight


@dataclass(frozen=True, kw_only=True)
class Ball(Prox):
    """0 where |x| is at most the radius, infinite elsewhere; the step is the projection"""

    radius: PositiveFloat

    def value(self, x: Any) -> float:
        return 0.0 if float(x @ x) <= (INSIDE * self.radius) ** 2 else float("inf")

    def apply(self, v: Any, eta: float, scratch: Any) -> None:
        norm = float(v @ v) ** 0.5
        if norm > self.radius:
            v *= self.radius / norm


PROXES: dict[str, type[Prox]] = {"none": Nothing, "l1": L1, "l2": L2, "ball": Ball}


def parse(text: str) -> Prox:
    """The psi that a SPEC means.

    >>> parse("l1:weight=0.5")
    L1(weight=0.5)
    """
    return spec.parse(text, PROXES, "--prox")


NOTHING: Final = Nothing()
