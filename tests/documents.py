"""The documents of the project, and the lines of code in them."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "algorithms", "benchmarks", "comm", "docs", "jobscripts", "results", "tests")
DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))])
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text_of(document: str) -> str:
    return DOCUMENTS[document].read_text()


def in_blocks(text: str) -> Iterator[str]:
    """The lines of code blocks, without what explains them after three spaces."""
    blocks = [block for language, block in FENCE.findall(text) if not language]
    blocks.append("\n".join(re.findall(r"^    (.*)$", FENCE.sub("", text), re.MULTILINE)))
    for line in "\n".join(blocks).splitlines():
        yield re.split(r"\s{3,}", line.strip())[0]


def words_of(lines: Iterable[str], start: str) -> Iterator[list[str]]:
    """The words of every command line that begins with `start`, without a placeholder for flags."""
    for line in lines:
        if re.match(start, line):
            yield [word for word in shlex.split(line) if word not in ("FLAGS", "...")]


def sources_of_programs() -> Iterator[str]:
    """The example of a user's own program."""
    for document in DOCUMENTS:
        for language, block in FENCE.findall(text_of(document)):
            if language == "python" and "main(run, Config)" in block:
                yield block
