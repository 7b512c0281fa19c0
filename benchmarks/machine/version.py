"""Which release this is."""

from typing import Final

VERSION: Final = "0.1.0"  # setup.cfg takes it from here: to ask packages for it would be 10 ms of every start
