"""What the gRPC tests share: keys of every tier, a server that speaks gRPC, and a client that knows nothing but its
address: it learns the calls and their messages by reflection."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from api_support import state_of
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from starlette.datastructures import Headers

from deepseek.api import serving
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.identity.caller import EVERYTHING, Caller
from deepseek.api.problems import Problem
from deepseek.api.scopes import Scope
from deepseek.api.server import DrainingServer
from deepseek.api.state import ServerState
from deepseek.api.tiers import DEFAULT_TIERS

SERVICE = "deepseek.v1.DeepSeek"
KEYS = {tier.name: f"key-of-{tier.name}" for tier in DEFAULT_TIERS}
READER = "key-that-reads"


class TestKeys:
    """A key for each tier, and an enterprise key that may only read."""

    __test__ = False

    def __init__(self) -> None:
        self._callers = {
            KEYS[tier.name]: Caller("acme", tier, EVERYTHING, KEYS[tier.name], KEYS[tier.name])
            for tier in DEFAULT_TIERS
        }
        self._callers[READER] = Caller("acme", DEFAULT_TIERS[-1], frozenset((Scope.READ,)), READER, READER)

    async def identify(self, headers: Headers) -> Caller:
        caller = self._callers.get(headers.get("authorization", "").removeprefix("Bearer "))
        if caller is None:
            raise Problem("unauthenticated", "Send a key as Authorization: Bearer KEY.")
        return caller


def keyed(engine: Any, **settings: Any) -> ServerState:
    state = state_of(engine, **settings)
    state.identifier = TestKeys()
    return state


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class Client:
    """Finds everything by reflection. Messages go in and come out as dicts of fields that are set."""

    def __init__(self, channel: grpc.Channel, key: str | None = None) -> None:
        self.channel = channel
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self._metadata = bearer(key) if key else {}

    def message(self, method: str, fields: Mapping[str, Any]) -> Any:
        found = self.pool.FindServiceByName(SERVICE).FindMethodByName(method)
        return message_factory.GetMessageClass(found.input_type)(**fields)

    def callable(self, method: str) -> Any:
        found = self.pool.FindServiceByName(SERVICE).FindMethodByName(method)
        answer = message_factory.GetMessageClass(found.output_type)
        make = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        return make(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def call(self, method: str, fields: Mapping[str, Any], *, timeout: float | None = 10.0, **metadata: str) -> Any:
        """The answer, or the running stream of answers."""
        sent = tuple((self._metadata | {name.replace("_", "-"): value for name, value in metadata.items()}).items())
        return self.callable(method)(self.message(method, fields), timeout=timeout, metadata=sent)

    def with_call(self, method: str, fields: Mapping[str, Any]) -> tuple[Any, grpc.Call]:
        return self.callable(method).with_call(
            self.message(method, fields), timeout=10.0, metadata=tuple(self._metadata.items())
        )


@contextmanager
def grpc_server(state: ServerState, **config: Any) -> Iterator[DrainingServer]:
    grace_s = config.pop("grace_s", 1.0)
    with serving(state, grace_s=grace_s, grpc=GrpcConfig(**({"port": 0} | config))) as server:
        yield server


@contextmanager
def client_of(server: DrainingServer, key: str | None = None) -> Iterator[Client]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield Client(channel, key)
