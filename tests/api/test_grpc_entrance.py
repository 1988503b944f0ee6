"""Who may call, how fast, and what a refusal looks like: gRPC asks what HTTP asks."""

import asyncio
import datetime
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from api_support import MODELS, QUEUE_FULL, HeldEngine, RefusingEngine, quick
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_support import KEYS, READER, SERVICE, Client, client_of, grpc_server, keyed

from deepseek.api.grpc.calls import CALLS
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.grpc.entrance import Entrance
from deepseek.api.identity.caller import Caller
from deepseek.api.limits.rate import Verdict
from deepseek.api.platform import checked_host
from deepseek.api.server import DrainingServer
from deepseek.core.errors import ConfigError

PROMPT = {"model": MODELS[0], "prompt": "Say hello"}
CHAT = {"model": MODELS[0], "messages": [{"user": {"content": {"text": "Hi"}}}]}
FIELDS = {"Models": {}, "Chat": CHAT, "ChatStream": CHAT, "Generate": PROMPT, "GenerateStream": PROMPT}


class AFew:
    """Lets so many requests pass."""

    def __init__(self, requests: int) -> None:
        self.left = requests

    async def take(self, caller: Caller) -> Verdict:
        self.left -= 1
        return Verdict(self.left >= 0, 3, max(0, self.left), 1.5, 7.2)


@pytest.fixture(scope="module")
def server() -> Iterator[DrainingServer]:
    with grpc_server(keyed(quick())) as server:
        yield server


def refused(client: Client, method: str, fields: dict[str, Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failed:
        answer = client.call(method, fields)
        if CALLS[method].streams:
            list(answer)
    return failed.value


def details_of(error: grpc.RpcError) -> dict[str, Message]:
    """As grpcio-status, a client's own library, reads them."""
    status = rpc_status.from_call(error)
    assert status is not None
    found = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        packed.Unpack(found[name])
    return found


@pytest.mark.parametrize("method", sorted(CALLS))
def test_no_call_is_answered_without_a_key(server: DrainingServer, method: str) -> None:
    with client_of(server) as client:
        error = refused(client, method, FIELDS[method])
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details_of(error)["ErrorInfo"].reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("tier", ["basic", "professional"])
@pytest.mark.parametrize("method", sorted(CALLS))
def test_a_tier_without_grpc_is_told_so_by_its_name(server: DrainingServer, tier: str, method: str) -> None:
    with client_of(server, KEYS[tier]) as client:
        error = refused(client, method, FIELDS[method])
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert tier in error.details()


def test_a_key_that_may_only_read_sees_models_and_spends_nothing(server: DrainingServer) -> None:
    with client_of(server, READER) as client:
        assert client.call("Models", {}).data
        assert refused(client, "Generate", PROMPT).code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_a_rate_that_is_used_up_says_when_to_come_back(method: str) -> None:
    state = keyed(quick())
    state.limiter = AFew(1)
    with grpc_server(state) as server, client_of(server, KEYS["enterprise"]) as client:
        stream = client.call("GenerateStream", PROMPT)
        assert dict(stream.initial_metadata())["x-ratelimit-limit-requests"] == "3"
        assert list(stream)
        error = refused(client, method, PROMPT)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["RetryInfo"].retry_delay.seconds >= 7
    assert int(dict(error.trailing_metadata())["retry-after"]) >= 7


def test_fields_that_are_wrong_are_named(server: DrainingServer) -> None:
    with client_of(server, KEYS["enterprise"]) as client:
        error = refused(client, "Generate", {**PROMPT, "top_p": 7.0, "n": 0})
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(error)["BadRequest"].field_violations
    assert {violation.field for violation in violations} == {"top_p", "n"}


def test_a_field_that_is_left_out_is_named(server: DrainingServer) -> None:
    with client_of(server, KEYS["enterprise"]) as client:
        error = refused(client, "Generate", {"model": MODELS[0]})
    assert [violation.field for violation in details_of(error)["BadRequest"].field_violations] == ["prompt"]


def test_a_model_that_is_not_served_is_not_found(server: DrainingServer) -> None:
    with client_of(server, KEYS["enterprise"]) as client:
        assert refused(client, "Generate", {**PROMPT, "model": "other"}).code() is grpc.StatusCode.NOT_FOUND


def test_bytes_that_are_no_message_are_an_invalid_argument(server: DrainingServer) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Generate")
        with pytest.raises(grpc.RpcError) as failed:
            call(b"\xff\xff\xff", metadata=(("authorization", f"Bearer {KEYS['enterprise']}"),), timeout=10)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_json_text_that_is_none_is_an_invalid_argument(server: DrainingServer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": "{"}}
    with client_of(server, KEYS["enterprise"]) as client:
        assert (
            refused(client, "Generate", {**PROMPT, "response_format": form}).code() is grpc.StatusCode.INVALID_ARGUMENT
        )


def test_numbers_that_are_none_are_an_invalid_argument(server: DrainingServer) -> None:
    with client_of(server, KEYS["enterprise"]) as client:
        error = refused(client, "Generate", {**PROMPT, "temperature": float("nan")})
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_larger_than_a_body_may_be_is_refused() -> None:
    state = keyed(quick(), max_body_bytes=10_000)
    with grpc_server(state) as server, client_of(server, KEYS["enterprise"]) as client:
        error = refused(client, "Generate", {**PROMPT, "prompt": "x" * 20_000})
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_full_queue_is_resource_exhausted() -> None:
    with grpc_server(keyed(RefusingEngine(QUEUE_FULL))) as server, client_of(server, KEYS["enterprise"]) as client:
        error = refused(client, "Generate", PROMPT)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["ErrorInfo"].reason == "QUEUE_FULL"


def test_a_method_without_a_scope_has_no_way_in() -> None:
    async def ask() -> grpc.StatusCode:
        async def answer(data: bytes, context: object) -> bytes:
            return b"let in"

        server = grpc.aio.server(interceptors=[Entrance(keyed(quick()), {})])
        handlers = {"Open": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                key = (("authorization", f"Bearer {KEYS['enterprise']}"),)
                await channel.unary_unary("/a.Service/Open")(b"", metadata=key)
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            await server.stop(0)
        return grpc.StatusCode.OK

    assert asyncio.run(ask()) is grpc.StatusCode.PERMISSION_DENIED


def test_a_method_that_does_not_exist_is_unimplemented(server: DrainingServer) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_are_counted_by_method_and_status() -> None:
    state = keyed(quick())

    def counted(status: str) -> float | None:
        labels = {"route": f"/{SERVICE}/Generate", "status": status, "tier": "enterprise"}
        return state.metrics.registry.get_sample_value("deepseek_http_requests_total", labels)

    with grpc_server(state) as server, client_of(server, KEYS["enterprise"]) as client:
        client.call("Generate", PROMPT)
        refused(client, "Generate", {**PROMPT, "model": "other"})
    assert (counted("OK"), counted("NOT_FOUND")) == (1.0, 1.0)


def test_a_network_without_tls_is_refused_unless_told() -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        checked_host(GrpcConfig(port=0), "0.0.0.0")
    assert checked_host(GrpcConfig(port=0, plaintext=True), "0.0.0.0") == "0.0.0.0"
    assert checked_host(GrpcConfig(port=0), "127.0.0.1") == "127.0.0.1"


def test_a_port_in_use_is_said_and_the_server_does_not_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        engine = HeldEngine()
        with (
            pytest.raises(ConfigError, match="gRPC cannot listen here"),
            grpc_server(keyed(engine), port=taken.getsockname()[1]),
        ):
            pass
    assert engine.closed.is_set()


def test_over_tls_the_servers_certificate_is_checked(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    state = keyed(quick("over TLS"))
    with grpc_server(state, certificate=certificate, key=key) as server:
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        port = server.grpc_address.rpartition(":")[2]
        with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
            assert Client(channel, KEYS["enterprise"]).call("Generate", PROMPT).text == "over TLS"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
