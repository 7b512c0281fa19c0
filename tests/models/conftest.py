"""As for the other tests that launch jobs."""

from launch.conftest import start

__all__ = ["start"]
