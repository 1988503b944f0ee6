"""Places for calls: those without a key have few, for a while, and take none from callers with one."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from api_support import MODELS, HeldEngine, quick
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_support import KEYS, SERVICE, bearer, client_of, grpc_server, keyed

from deepseek.api.grpc.entrance import Entrance
from deepseek.api.grpc.health import Health
from deepseek.api.grpc.public import MAX_STREAMS, PublicCalls
from deepseek.api.grpc.server import PUBLIC

PROMPT = {"model": MODELS[0], "prompt": "Say hello"}
KEY = tuple(bearer(KEYS["enterprise"]).items())
ASKED = health_pb2.HealthCheckRequest()
REFLECTION = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"


def code_of(call: Any) -> grpc.StatusCode:
    """How a stream ends."""
    with pytest.raises(grpc.RpcError) as failed:
        list(call)
    return failed.value.code()


def test_streams_without_a_key_leave_room_for_everybody_else() -> None:
    with grpc_server(keyed(quick("room")), max_concurrent_calls=1) as server:
        with client_of(server) as client:  # learns the messages while there is room
            message = client.message("Generate", PROMPT).SerializeToString()
        with grpc.insecure_channel(server.grpc_address) as crowd:
            health = health_pb2_grpc.HealthStub(crowd)
            watches = [health.Watch(ASKED) for _ in range(MAX_STREAMS)]
            for watch in watches:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            assert code_of(health.Watch(ASKED, timeout=10)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            reflected = crowd.stream_stream(REFLECTION)(iter([b""]), timeout=10)
            assert code_of(reflected) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert health.Check(ASKED, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
            answer = crowd.unary_unary(f"/{SERVICE}/Generate")(message, metadata=KEY, timeout=10)
            assert b"room" in answer


def test_a_call_with_a_key_beyond_the_most_is_told_to_come_back() -> None:
    engine = HeldEngine(["one"])
    with grpc_server(keyed(engine), max_concurrent_calls=1) as server, client_of(server, KEYS["enterprise"]) as client:
        running = client.call("GenerateStream", PROMPT)
        assert next(running).text == "one"
        with pytest.raises(grpc.RpcError) as failed:
            client.call("Models", {})
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(failed.value.trailing_metadata())["retry-after"] == "1"
        engine.release()
        assert list(running)[-1].finish_reason == "stop"
        assert client.call("Models", {}).data


@pytest.fixture
def silent() -> Iterator[Iterator[bytes]]:
    """A message that does not come."""
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        over.wait(30)
        yield b""

    yield messages()
    over.set()


def test_a_caller_without_a_key_is_refused_before_its_message_comes(silent: Iterator[bytes]) -> None:
    with (
        grpc_server(keyed(quick())) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        pytest.raises(grpc.RpcError) as failed,
    ):
        channel.stream_unary(f"/{SERVICE}/Generate")(silent, timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_message_is_waited_for_as_long_as_a_body(silent: Iterator[bytes]) -> None:
    with (
        grpc_server(keyed(quick(), body_timeout_s=0.1)) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        pytest.raises(grpc.RpcError) as failed,
    ):
        channel.stream_unary(f"/{SERVICE}/Generate")(silent, metadata=KEY, timeout=10)
    assert "did not arrive" in failed.value.details()


def test_a_call_without_a_message_is_an_invalid_argument() -> None:
    with (
        grpc_server(keyed(quick())) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        pytest.raises(grpc.RpcError) as failed,
    ):
        channel.stream_unary(f"/{SERVICE}/Generate")(iter(()), metadata=KEY, timeout=10)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def watched(public: PublicCalls, ask: Any) -> Any:
    """What `ask` finds over a channel to health and reflection with such bounds."""

    async def serve() -> Any:
        server = grpc.aio.server(interceptors=[Entrance(keyed(quick()), PUBLIC, public=public)])
        health_pb2_grpc.add_HealthServicer_to_server(Health(keyed(quick())), server)
        reflection.enable_server_reflection((SERVICE,), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await ask(channel)
        finally:
            await server.stop(0)

    return asyncio.run(serve())


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check", REFLECTION])
@pytest.mark.parametrize("sent", [[], [b""]])
def test_a_call_without_a_key_ends_in_time(method: str, sent: list[bytes]) -> None:
    async def ask(channel: grpc.aio.Channel) -> grpc.StatusCode:
        call = channel.stream_stream(method)()
        for message in sent:
            await call.write(message)
        # A status is told behind the answers before it.
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        return await call.code()

    code = watched(PublicCalls(stream_s=0.1, call_s=0.1), ask)
    answered = method.endswith("Check") and sent
    assert code is (grpc.StatusCode.OK if answered else grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_watch_that_is_given_up_makes_room_for_another() -> None:
    async def ask(channel: grpc.aio.Channel) -> int:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        for count in range(5):
            call = watch(ASKED)
            if await call.read() is grpc.aio.EOF:
                return count
            call.cancel()
            # On the same connection: the cancellation arrives first, but the server's task ends a moment later.
            for _ in range(100):
                await asyncio.sleep(0)
        return 5

    assert watched(PublicCalls(max_streams=2), ask) == 5
