"""Local update rules: what a worker does to its model x with a gradient g, the same in every program that has `--rule`.

    sgd        x <- x - gamma g
    momentum   v <- beta1 v + g;  x <- x - gamma v                                     (Polyak 1964, the heavy ball)
    adam       m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
               x <- x - gamma m-hat / (sqrt(v-hat) + 1e-8)    (Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1)
    adamw      x <- (1 - gamma lambda) x, and else as adam (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101)

In step k m-hat is m / (1 - beta1^(k + 1)), and v-hat alike. In the first three rules lambda is coupled: lambda x, the
gradient of lambda/2 |x|^2, joins g before any moment. In adamw it is decoupled, and multiplied by all of gamma, as
PyTorch's is; Algorithm 2 of the paper multiplies it by the schedule alone.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Literal, Protocol

from outpace.comm import vectors

Rule = Literal["sgd", "momentum", "adam", "adamw"]
StepSizes = Callable[[int], float]  # gamma(k)
Update = Callable[..., None]  # update(x, g, k, n=1) writes x; g is the sum of n gradients, and may be written
Moments = dict[str, Any]  # what a rule remembers, by name

EPSILON: Final = 1e-8
STEP_SIZES: Final[dict[Rule, float]] = {"sgd": 0.2, "momentum": 0.2, "adam": 0.05, "adamw": 0.05}  # by default
TITLES: Final[dict[Rule, str]] = {"sgd": "SGD", "momentum": "Momentum SGD", "adam": "Adam", "adamw": "AdamW"}


class RuleConfig(Protocol):
    """The flags of a program that a rule needs."""

    @property
    def rule(self) -> Rule: ...
    @property
    def beta1(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def local_rule(cfg: RuleConfig, gamma: StepSizes, x: Any, xp: ModuleType) -> tuple[Update, Moments]:
    """The update of models like x, shape (dim,), and its moments, for `budget.keep`. No update allocates a vector.

    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> cfg, x = SimpleNamespace(rule="sgd", weight_decay=0.5), np.array([4.0])
    >>> update, moments = local_rule(cfg, lambda k: 0.1, x, np)
    >>> update(x, np.array([1.0]), 0)
    >>> x.tolist(), moments
    ([3.7], {})
    """
    update, moments = RULES[cfg.rule](cfg, gamma, x, xp)
    if not cfg.weight_decay or cfg.rule == "adamw":
        return update, moments
    penalise = vectors.penalise.like(x)

    def penalised(x: Any, g: Any, k: int, n: int = 1) -> None:
        penalise(cfg.weight_decay, n, x, g)
        update(x, g, k)

    return penalised, moments


def _sgd(cfg: RuleConfig, gamma: StepSizes, x: Any, xp: ModuleType) -> tuple[Update, Moments]:
    descend = vectors.descend.like(x)

    def update(x: Any, g: Any, k: int, n: int = 1) -> None:
        descend(gamma(k), n, g, x)

    return update, {}


def _momentum(cfg: RuleConfig, gamma: StepSizes, x: Any, xp: ModuleType) -> tuple[Update, Moments]:
    v, momentum = xp.zeros_like(x), vectors.momentum.like(x)

    def update(x: Any, g: Any, k: int, n: int = 1) -> None:
        momentum(cfg.beta1, gamma(k), n, g, v, x)

    return update, {"v": v}


def _adam(cfg: RuleConfig, gamma: StepSizes, x: Any, xp: ModuleType) -> tuple[Update, Moments]:
    m, v, adam = xp.zeros_like(x), xp.zeros_like(x), vectors.adam.like(x)
    decays = cfg.beta1, 1 - cfg.beta1, cfg.beta2, 1 - cfg.beta2
    shrinking = cfg.weight_decay if cfg.rule == "adamw" else 0.0

    def update(x: Any, g: Any, k: int, n: int = 1) -> None:
        bias1, bias2 = 1 - cfg.beta1 ** (k + 1), 1 - cfg.beta2 ** (k + 1)  # of m-hat and v-hat
        adam(*decays, bias2, EPSILON, gamma(k) / bias1, 1 - gamma(k) * shrinking, n, g, m, v, x)

    return update, {"m": m, "v": v}


RULES: Final[dict[Rule, Callable[[RuleConfig, StepSizes, Any, ModuleType], tuple[Update, Moments]]]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
    "adamw": _adam,
}
