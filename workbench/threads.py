"""One BLAS thread for small matrices: more only wait for each other, and would make rounding depend on their number."""

from __future__ import annotations

from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    # Looking for the libraries takes milliseconds, which is as long as a small fit takes.
    return ThreadpoolController()


def one_thread() -> Any:
    """Context in which NumPy and SciPy use one BLAS thread."""
    return _controller().limit(limits=1)
