"""The page about some runs: what stands in it, and that it asks for nothing from elsewhere."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_traces import SLOW, simulate

from outpace.benchmarks import figures, reports
from outpace.benchmarks.command import main
from outpace.comm.errors import UserError

HOST = "a-host-of-mine"


class Page(HTMLParser):
    """The images, the text, and every address that a browser would follow by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: dict[str, bytes] = {}
        self.addresses: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            source = values["src"] or ""
            assert source.startswith("data:image/png;base64,")
            self.images[values["alt"] or ""] = base64.b64decode(source.partition(",")[2])
        elif tag in ("script", "link", "iframe", "object"):
            self.addresses.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two programs, one with a slow rank."""
    folder = tmp_path_factory.mktemp("runs")
    more = {"hostnames": [HOST] * 4, "wall_s": 3.0, "cpu_model": "A <b>CPU</b>", "command": "outpace run a & b"}
    return [
        simulate(folder / "all.h5", "allreduce_sgd", stragglers=SLOW, progress="none", steps=40, **more),
        simulate(folder / "gossip.h5", "ad_psgd", progress="wait-free", progress_wait_s=[1e-4] * 4, steps=40, **more),
    ]


def test_a_page_has_everything_in_it(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("loss-time", "timeline", "speed-up")  # the last one needs several numbers of workers
    monkeypatch.setattr(figures, "FIGURES", {name: figures.FIGURES[name] for name in few})
    html = reports.write(runs, tmp_path / "report.html").read_text()
    page = Page(html)
    assert not page.addresses
    assert not re.search(r"url\(|@import|https?:", html)
    assert list(page.images) == ["loss-time", "timeline"]
    assert all(image.startswith(b"\x89PNG") for image in page.images.values())
    assert "speed-up: " in page.words
    assert "rank 1, gradients take longer, by injected delays" in page.words
    assert "nobody: no rank" in page.words
    for text in ("all.h5", "gossip.h5", "A <b>CPU</b>", "outpace run a & b", SLOW):
        assert text in page.words
    assert HOST not in html


def test_what_cannot_be_explained_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {})
    page = Page(reports.write([simulate(tmp_path / "old.h5", steps=5)], tmp_path / "page.html").read_text())
    assert "Not explained: " in page.words
    assert "None of the figures fits" in page.words


def test_no_page_replaces_a_trace(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {})
    with pytest.raises(UserError, match="is a trace"):
        reports.write(runs, runs[0])
    assert main(["report", str(runs[0]), "-o", str(runs[0].parent / "nowhere" / "report.html")]) == 2
