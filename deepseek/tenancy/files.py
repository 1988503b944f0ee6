"""Where data lies: one directory, in it one for each tenant, readable by this user alone.

    $DEEPSEEK_DATA, else $XDG_DATA_HOME/deepseek, else ~/.local/share/deepseek
        tenants/NAME/       everything of one tenant, its database among it

A capital letter of a name is written `=` and the small one, so that two tenants never share a directory on a file system
that does not tell capitals apart.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from deepseek.core.errors import ConfigError
from deepseek.tenancy.context import check_tenant, current_tenant

VARIABLE = "DEEPSEEK_DATA"


def data_directory(root: str | os.PathLike[str] | None = None) -> Path:
    """The directory of all data, made if need be. root: instead of what the environment says. Raises ConfigError."""
    if root is None:
        base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        root = os.environ.get(VARIABLE) or Path(base) / "deepseek"
    return _made(Path(root).expanduser().absolute())


def tenant_directory(root: str | os.PathLike[str] | None = None, tenant: str | None = None) -> Path:
    """A tenant's own directory, made if need be; the current tenant's by default.

    root: the data directory. Raises TenancyError where there is no tenant, ConfigError for a directory that cannot be.
    """
    name = current_tenant() if tenant is None else check_tenant(tenant)
    return _made(data_directory(root) / "tenants" / re.sub("[A-Z]", lambda letter: "=" + letter[0].lower(), name))


def _made(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fix = f"make it writable, or set {VARIABLE} to another directory"
        raise ConfigError("the data directory cannot be made", where=path, found=error.strerror, fix=fix) from None
    return path
