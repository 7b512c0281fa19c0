"""Every pytest has a temporary folder of its own; with --durations every folder's seconds are summed, too."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest

OWN_FOLDER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    # Ranks and jobs that share pytest's usual folder clear it up for one another, now and then two at once: an error.
    if config.option.basetemp is None:
        config.stash[OWN_FOLDER] = config.option.basetemp = tempfile.mkdtemp(prefix="outpace-tests-")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    yield
    if OWN_FOLDER in session.config.stash and not exitstatus:  # what a failure left is there to be looked at
        shutil.rmtree(session.config.stash[OWN_FOLDER])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("durations"):
        return
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0].rpartition("/")[0]] += report.duration
    terminalreporter.section("seconds by folder")
    for folder, total in seconds.most_common():
        terminalreporter.write_line(f"{total:7.1f}  {folder}")
