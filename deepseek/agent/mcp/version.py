"""What we call ourselves to the other side."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The package's; "0" for a checkout that is not installed."""
    try:
        return version("deepseek-stack")
    except PackageNotFoundError:
        return "0"
