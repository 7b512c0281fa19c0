"""The table of deliberate faults fits the sources, and its page the table. `make mutations` tries the faults."""

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
