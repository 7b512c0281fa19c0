"""The table of deliberate faults fits the sources, and its page the table. `make mutations` tries the faults."""

import re

import mutations

from outpace.benchmarks.claims.ledger import CLAIMS


def test_every_fault_can_be_put_into_its_file() -> None:
    """Once, in Python as something that compiles; the test that must fail has a file."""
    for mutation in mutations.table():
        text = (mutations.ROOT / mutation.file).read_text()
        faulty = mutation.apply(text)
        if mutation.file.endswith(".py"):
            compile(faulty, mutation.file, "exec")
        assert (mutations.ROOT / mutation.test).is_file(), mutation.fault
        assert mutation.claim in ("", *CLAIMS), mutation.fault


def test_the_page_is_that_of_the_table() -> None:
    assert mutations.PAGE.read_text() == mutations.page(), "python tests/mutations.py --write"


def test_every_row_of_faults_names_some_that_its_own_tests_see() -> None:
    of_title = {mutation.fault: mutation for mutation in mutations.table()}
    rows = re.findall(r"^\| .* \| (.*) \| (.*) \|$", (mutations.ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    rows = [(tests, titles) for tests, titles in rows if "`" in tests]
    assert len(rows) > 20
    for tests, titles in rows:
        for title in titles.split("; "):
            assert f"`{of_title[title].test}`" in tests
