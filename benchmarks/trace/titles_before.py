"""Titles of traces made before programs recorded their own. Complete: a new program says its title in its Config."""

from typing import Any, Final

TITLES: Final = {
    "allreduce_sgd": "AllReduce-SGD",
    "a_psgd": "A-PSGD",
    "d_psgd": "D-PSGD",
    "ad_psgd": "AD-PSGD",
    "d2": "D²",
    "eamsgd": "EAMSGD",
    "sign_sgd": "signSGD",
    "quantized_sgd": "Quantized SGD",
    "svrg": "SVRG",
    "katyusha_x": "Katyusha X",
}

# What a flag made of it; {} is the title so far.
VARIANTS: Final = {
    ("allreduce_sgd", "rule", "momentum"): "Momentum SGD",
    ("allreduce_sgd", "rule", "adam"): "Adam",
    ("sign_sgd", "variant", "signum"): "Signum",
    ("sign_sgd", "variant", "ef-signsgd"): "EF-signSGD",
    ("sign_sgd", "vote", "none"): "{} without a vote",
    ("katyusha_x", "variant", "s"): "{}ˢ",
    ("katyusha_x", "variant", "w"): "{}ʷ",
    ("katyusha_x", "sampling", "stratified"): "{}, stratified",
    ("svrg", "sampling", "stratified"): "{}, stratified",
}


def of(algorithm: str, config: dict[str, Any]) -> str:
    """The title of such a trace, by its attribute `algorithm` and its resolved flags."""
    title = TITLES.get(algorithm, algorithm)
    for (program, flag, value), text in VARIANTS.items():
        if program == algorithm and config.get(flag) == value:
            title = text.format(title)
    return title
