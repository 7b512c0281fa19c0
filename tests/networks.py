"""Networks in torch beside the suite's own."""

import numpy as np


def as_in_torch(x: np.ndarray, hidden: int = 64) -> np.ndarray:
    """A flat model or gradient of the problem `digits` as torch's perceptron has it: its matrices transposed."""
    W_1, b_1, W_2, b_2 = np.split(x, np.cumsum([64 * hidden, hidden, hidden * 10]))
    return np.concatenate([W_1.reshape(64, hidden).T.ravel(), b_1, W_2.reshape(hidden, 10).T.ravel(), b_2])
