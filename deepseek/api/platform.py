"""What stands behind one server: its database, its keys, its limits and its meter, put together from the configuration.

On loopback, and as long as no key was ever made, nobody is asked for one, so that `deepseek serve` just works. Any other
address is refused until there is a key, or an issuer of tokens, by which callers can be told apart.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.api.admin import KeyAdmin
from deepseek.api.agents.configured import AgentsConfig, read_agents
from deepseek.api.config import PlatformConfig, load
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.idempotency_store import IdempotencyStore
from deepseek.api.identity.caller import Identifier
from deepseek.api.identity.identifier import KeyIdentifier, LoopbackIdentifier
from deepseek.api.identity.ring import KeyRing
from deepseek.api.identity.secret import derive, secret_of
from deepseek.api.identity.token_config import JwtConfig
from deepseek.api.identity.watch import KeyWatch
from deepseek.api.kept.shelf import Shelf
from deepseek.api.limits import limiter_of
from deepseek.api.limits.config import LimitConfig
from deepseek.api.limits.rate import RateLimiter
from deepseek.api.metering.budget_meter import BudgetMeter
from deepseek.api.metering.budgets import Budgets
from deepseek.api.metering.meter import FreeMeter, Meter
from deepseek.api.metering.prices import PriceList
from deepseek.api.metering.report import UsageReports
from deepseek.api.salts import TenantSalts
from deepseek.api.store.database import Database, DatabaseInUse
from deepseek.api.store.keys import version
from deepseek.api.store.writer import Writer
from deepseek.api.tiers import Tiers
from deepseek.core.errors import ConfigError
from deepseek.plugins.manager import PluginManager
from deepseek.plugins.reload import ConfigWatch
from deepseek.tenancy.documents import offer as offer_documents

if TYPE_CHECKING:
    from deepseek.api.identity.tokens import TokenVerifier

MAKE_A_KEY = "deepseek keys create --tenant NAME --tier professional"


@dataclass(slots=True)
class Platform:
    """What `ServerState` takes (`state_fields`), and what must be closed after it (`close`).

    rows: name and value of what the start should show.
    """

    identifier: Identifier
    limiter: RateLimiter
    meter: Meter
    salts: TenantSalts
    private: Mapping[str, frozenset[str]]
    rows: list[tuple[str, str]]
    admin: KeyAdmin | None = None
    idempotency: IdempotencyStore | None = None
    usage: UsageReports | None = None
    shelf: Shelf = field(default_factory=Shelf)
    limits: LimitConfig = field(default_factory=LimitConfig)
    tiers: Tiers = field(default_factory=Tiers)
    adapters: Mapping[str, str] = field(default_factory=dict)
    plugins: PluginManager = field(default_factory=PluginManager)
    plugin_watch: ConfigWatch | None = None
    agents: AgentsConfig = field(default_factory=AgentsConfig)
    closing: ExitStack = field(default_factory=ExitStack)

    def state_fields(self) -> dict[str, Any]:
        """Keyword arguments of ServerState."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name not in _OWN}

    def close(self) -> None:
        """Once nothing is served any more: write what waits, let the database go. Idempotent."""
        self.closing.close()


_OWN = ("rows", "adapters", "closing")


def open_platform(
    config: PlatformConfig,
    *,
    host: str,
    database: str | None = None,
    require_keys: bool = False,
    where: str = "",
    watched: Path | None = None,
) -> Platform:
    """Open the database and put together what callers are identified, limited and charged by, and the plugins.

    database: instead of the configuration's. require_keys: also on loopback, and before the first key is made.
    where: the configuration's file, for errors. watched: it, if its plugins are to be read again when it changes.
    Raises ConfigError where the server must not start like this, and StoreError where the database does not answer.
    """
    offer_documents()
    plugins = PluginManager(config.plugins, where=f"{where or 'configuration'}: plugins")
    agents = read_agents(config.agents, f"{where or 'configuration'}: agents")
    platform = _open_database(config, host=host, database=database, require_keys=require_keys, where=where)
    platform.plugins, platform.agents = plugins, agents
    if plugins.plugins:
        platform.rows.append(("plugins", ", ".join(plugin.name for plugin in plugins.plugins)))
    if agents.agents:
        platform.rows.append(("agents", ", ".join(agents.agents)))
    if watched is not None:
        file = watched
        platform.plugin_watch = ConfigWatch(file, lambda: load(file).plugins, plugins)
    return platform


def _open_database(
    config: PlatformConfig, *, host: str, database: str | None, require_keys: bool, where: str
) -> Platform:
    tiers = config.tiers_of(where or "configuration")
    named = database or config.database
    local = is_loopback(host)
    keyless = local and not require_keys and config.jwt is None
    try:
        opened = Database.open(named or default_database(), serving=True)
    except ConfigError as error:
        if named is not None or not keyless or _needs_database(config):
            raise
        return _without_database(config, error)
    with ExitStack() as closing:
        closing.callback(opened.close)
        writer = Writer(opened)
        closing.callback(writer.close)
        secret = secret_of(opened)
        ring = KeyRing(opened, writer, secret, tiers)
        closing.callback(ring.close)
        tokens = _token_verifier(config.jwt, tiers) if config.jwt is not None else None
        identifier = KeyIdentifier(ring, tokens, open_until_keyed=keyless)
        if not local and tokens is None and not ring.count:
            raise ConfigError(
                "other machines may connect to this address, and there is no key to tell callers apart by",
                where=f"--host {host}",
                found=f"no key in {opened}",
                fix=f"{MAKE_A_KEY}{f' --database {named}' if named else ''}; or listen on 127.0.0.1",
            )
        meter = BudgetMeter(opened, writer, PriceList.of_config(config.prices), Budgets(config.budgets))
        platform = Platform(
            identifier=identifier,
            limiter=limiter_of(config.limits, config.redis),
            meter=meter,
            salts=TenantSalts(derive(secret, "cache-salt")),
            private=config.owners(),
            rows=[("identity", _describe(identifier, ring, config)), ("database", str(opened))],
            admin=KeyAdmin(opened, writer, ring, secret, tuple(tiers.by_name)),
            idempotency=IdempotencyStore(writer, meter.presence),
            usage=UsageReports(opened),
            shelf=Shelf(opened, writer, Path(config.files) if config.files else _files_beside(opened)),
            limits=config.limits,
            tiers=tiers,
            adapters=config.adapters(where or "configuration"),
        )
        ring.start()
        platform.closing = closing.pop_all()
        return platform


def default_database() -> str:
    """The control database of this user's machine."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return str(Path(base).expanduser() / "deepseek" / "control.db")


def _files_beside(database: Database) -> Path:
    """Where tenants' files are: beside an SQLite file, else in this user's data directory."""
    if database.path is not None:
        return database.path.with_name(f"{database.path.stem}-files")
    return Path(default_database()).with_name("files")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach every address the name stands for. A name that stands for none is not."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, flags=socket.AI_PASSIVE)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def checked_host(config: GrpcConfig, http_host: str) -> str:
    """The host that gRPC listens on. Raises ConfigError for a network without TLS.

    http_host: HTTP's, where gRPC has none of its own.
    """
    host = config.host or http_host
    if config.certificate is None and not config.plaintext and not is_loopback(host):
        raise ConfigError(
            "gRPC without TLS would send keys in the clear",
            where="grpc",
            found=f"host {host}",
            expected="a loopback address, or TLS",
            fix="set grpc.certificate and grpc.key, or grpc.plaintext: true where something else encrypts",
        )
    return host


def _token_verifier(config: JwtConfig, tiers: Tiers) -> TokenVerifier:
    from deepseek.api.identity.tokens import TokenVerifier  # a tenth of a second that others need not spend

    return TokenVerifier(config, tiers)


def _needs_database(config: PlatformConfig) -> bool:
    return bool(config.budgets or config.prices)


def _without_database(config: PlatformConfig, why: ConfigError) -> Platform:
    """A second server on one machine, or one that has no place to write: it works, and remembers nothing.

    Raises ConfigError where the database that another server holds has keys: callers must not get in here without one.
    Once they are made later, this server answers nobody any more.
    """
    reason = f"none, so no usage is kept and no keys can be made ({why.where}: {why.what})"
    with ExitStack() as closing:
        watch = None
        if isinstance(why, DatabaseInUse):
            beside = Database.open(str(why.where))
            closing.callback(beside.close)
            if beside.read_now(version) > 0:
                raise why
            watch = KeyWatch(beside)
        platform = Platform(
            identifier=LoopbackIdentifier(watch),
            limiter=limiter_of(config.limits, config.redis),
            meter=FreeMeter(),
            salts=TenantSalts(),
            private=config.owners(),
            limits=config.limits,
            tiers=config.tiers_of(),
            rows=[("identity", "nobody is asked, on this machine alone"), ("database", reason)],
            adapters=config.adapters(),
        )
        platform.closing = closing.pop_all()
        return platform


def _describe(identifier: KeyIdentifier, ring: KeyRing, config: PlatformConfig) -> str:
    if identifier.open:
        return "nobody is asked, on this machine alone, until the first key is made (deepseek keys create)"
    ways = [f"keys ({ring.count} good)"] + ([f"tokens of {config.jwt.issuer}"] if config.jwt is not None else [])
    return f"{' or '.join(ways)}; required from every caller, on this machine too"
