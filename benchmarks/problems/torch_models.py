"""Built-in models for `--problem torch:`, as plain torch modules, and those of a user's file.

A built-in is a function of what one sample is, a shape without the batch, and of how many classes there are; it returns
a module that gives logits, shape (b, classes) or, at every position of a text, (b, positions, classes).
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from outpace.comm import inputs, user_code
from outpace.comm.errors import UserError
from outpace.comm.streams import INIT


def mlp(shape: torch.Size, classes: int) -> nn.Module:
    """One hidden layer of 64 rectified linear units, as in `--problem digits`."""
    hidden = 64
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), hidden), nn.ReLU(), nn.Linear(hidden, classes))


def lenet5(shape: torch.Size, classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al., Proc. IEEE 86, 1998) as it is built today: rectified linear units and maxima. Images of
    28 x 28 are padded to 32 x 32, as there; 61,706 parameters with one channel."""
    channels, height, width = shape
    features = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2 if height == 28 else 0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    width = features(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(
        features, nn.Linear(width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
    )


class Block(nn.Module):
    """Two convolutions and what goes around them: the input, of which a stride takes every other pixel and adds
    channels of zeros (He et al., CVPR 2016, option A)."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if before == channels else (2, channels - before)
        self.conv1 = nn.Conv2d(before, channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + around)


def resnet20(shape: torch.Size, classes: int) -> nn.Module:
    """The residual network for CIFAR-10 of He et al. (CVPR 2016, section 4.2) with n = 3, initialised as there."""
    blocks, before = [], 16
    for channels in (16, 16, 16, 32, 32, 32, 64, 64, 64):
        blocks.append(Block(before, channels))
        before = channels
    first = nn.Sequential(nn.Conv2d(shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    model = nn.Sequential(first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return model


def vgg11(shape: torch.Size, classes: int) -> nn.Module:
    """VGG-A (Simonyan and Zisserman, ICLR 2015) as it is used on CIFAR-10: with batch normalisation, and one linear
    layer in place of three."""
    layers: list[nn.Module] = []
    before = shape[0]
    for channels in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if channels:
            layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def resnet50(shape: torch.Size, classes: int) -> nn.Module:
    """torchvision's, for images of about 224 x 224 in three channels, without weights."""
    import torchvision

    return torchvision.models.resnet50(num_classes=classes)


class Decoder(nn.Module):
    """A layer of a transformer that sees no later position, normalised first (Radford et al., 2019)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        dropped = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        x = x + self.drop(self.out(attended.transpose(1, 2).flatten(-2)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Gpt(nn.Module):
    """A small decoder-only transformer whose tokens are bytes; the output has the embedding's weights."""

    def __init__(
        self, positions: int, tokens: int, width: int = 128, layers: int = 4, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.layers = nn.Sequential(nn.Dropout(dropout), *(Decoder(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        self.head.weight = self.token.weight

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        logits: torch.Tensor = self.head(self.norm(self.layers(self.token(text) + self.position(places))))
        return logits


def gpt(shape: torch.Size, classes: int) -> nn.Module:
    """Four layers of width 128, four heads, a tenth of the units dropped."""
    return Gpt(shape[0], classes)


BUILT_IN: Final[dict[str, Callable[[torch.Size, int], nn.Module]]] = {
    make.__name__: make for make in (mlp, lenet5, resnet20, vgg11, resnet50, gpt)
}


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over samples, and over positions of a text."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def loss(model: str, name: str | None, what: str) -> Callable[..., Any]:
    """The function of that name in the file of the model. Raises UserError where there is none."""
    return named(model.rpartition(":")[0], name, what) if name else cross_entropy


def make(model: str, shape: tuple[int, ...], classes: int, seed: int, what: str) -> nn.Module:
    """The module that a SPEC's `model` names, initialised by the seed. Raises UserError where there is none for such
    samples."""
    path, _, name = model.rpartition(":")
    factory: Callable[[], Any] = named(path, name, what) if path else lambda: BUILT_IN[name](torch.Size(shape), classes)
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(int(np.random.SeedSequence([INIT, seed]).generate_state(1)[0]))
    try:
        module = factory()
    except Exception as error:  # of the user's code
        raise UserError(f"{what}: {model} fails: {_line(error)}") from None
    if not isinstance(module, nn.Module):
        raise UserError(f"{what}: {model} returns {type(module).__name__}, not a torch.nn.Module")
    _try_out(module, model, shape, classes, what)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError(f"{what}: {model} has no parameters to train")
    return module


def _try_out(module: nn.Module, model: str, shape: tuple[int, ...], classes: int, what: str) -> None:
    """See that it takes samples and gives logits; layers that are lazy get their size by it."""
    dtype = torch.float32 if len(shape) == 3 else torch.int64
    module.eval()
    try:
        with torch.no_grad():
            logits = module(torch.zeros(2, *shape, dtype=dtype))
    except Exception as error:
        raise UserError(f"{what}: {model} fails on samples of shape {shape}: {_line(error)}") from None
    due = (2, classes) if len(shape) == 3 else (2, *shape, classes)
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != due:
        raise UserError(f"{what}: {model} returns {found} for 2 samples of shape {shape}; logits are {due}")


def named(path: str, name: str, what: str) -> Callable[..., Any]:
    """The function of that name in a user's file. Raises UserError where there is none."""
    found = getattr(user_code.load(inputs.regular(path, f"{what}: ").resolve()), name, None)
    if not callable(found):
        raise UserError(f"{what}: {path} has no function {name}")
    function: Callable[..., Any] = found
    return function


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
