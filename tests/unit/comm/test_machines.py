"""Machines of the simulation as TOML: what is written is read again, and what is wrong is said in one line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_machines import machine

from outpace.comm import machines
from outpace.comm.errors import UserError
from outpace.comm.presets import PRESETS

NUMBERS = st.floats(0, 1e100)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(TEXTS, NUMBERS, st.dictionaries(TEXTS, NUMBERS), st.dictionaries(TEXTS, TEXTS))
def test_a_machine_is_read_as_it_was_written(source: str, number: float, numbers: dict, errors: dict) -> None:
    written = machine(source=source, oversleep_s=number, compute_s_per_sample=numbers, stated_error=errors)
    assert machines.parse(written.to_toml()) == written


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_for_each_table_whether_it_is_by_a_standard_or_assumed(name: str) -> None:
    preset = machines.read(name)
    assert preset.name == name
    for line in PRESETS[name].splitlines():
        if line.startswith("[") or ("=" in line and "_s" in line.split("=")[0]):
            before = PRESETS[name].split(line)[0].splitlines()[-1:]
            assert any("standard:" in text or "assumed:" in text for text in (line, *before)), line


@pytest.mark.parametrize(("name", "gbit"), [("10gbit", 10), ("25gbit", 25), ("100gbit", 100), ("hdr", 200)])
def test_presets_take_less_than_the_rate_of_their_line(name: str, gbit: float) -> None:
    share = 8 / machines.read(name).gap_s_per_byte.duplex / (gbit * 1e9)
    assert 0.9 < share < 1


def test_a_file_is_read_like_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(PRESETS["hdr"])
    assert machines.read(str(file)) == machines.read("hdr")


WRITTEN = machine().to_toml()
WRONG = {
    "not TOML": "name = ",
    "a key that there is not": "colour = 'red'\n" + WRITTEN,
    "a key of a table that there is not": WRITTEN.replace('"duplex"', '"simplex"', 1),
    "no name": WRITTEN.split("\n", 1)[1],
    "no table": WRITTEN.split("[latency_s]")[0],
    "a text for a number": WRITTEN.replace("pass_s_per_byte = 1e-10", "pass_s_per_byte = 'fast'"),
    "a number for a text": WRITTEN.replace('name = "made"', "name = 3"),
    "a number for a table": "spread = 3\n" + WRITTEN,
    "true": WRITTEN.replace("jitter = 0.0", "jitter = true"),
    "negative": WRITTEN.replace("cpu_per_message_s = 1e-06", "cpu_per_message_s = -1e-06"),
    "not a number": WRITTEN.replace("jitter = 0.0", "jitter = nan"),
    "infinite": WRITTEN.replace("1e-09", "inf", 1),
    "too large for a float": WRITTEN.replace("jitter = 0.0", f"jitter = {10**400}"),
    "not finite, in a free table": WRITTEN + "\n[spread]\ngap = nan\n",
    "not whole": WRITTEN.replace("packet_bytes = 65536", "packet_bytes = 1.5"),
    "no packet": WRITTEN.replace("packet_bytes = 65536", "packet_bytes = 0"),
    "an algorithm that there is not": WRITTEN.replace('"halving"', '"tree"'),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, wrong: str) -> None:
    assert wrong != WRITTEN
    file = tmp_path / "machine.toml"
    file.write_text(wrong)
    with pytest.raises(UserError) as raised:
        machines.read(str(file))
    assert str(raised.value).startswith(f"machine {file}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["nothing", "a folder", "no text"])
def test_no_machine(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "machine"
    if kind == "a folder":
        file.mkdir()
    if kind == "no text":
        file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no preset; presets: 10gbit" if kind == "nothing" else "cannot read"):
        machines.read(str(file))
