"""Health follows the server's life, a drain lets calls end and refuses new ones, and clients with generated code work."""

import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from api_support import MODELS, HeldEngine, quick
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_support import KEYS, SERVICE, client_of, grpc_server, keyed

from deepseek.api.protobuf.contract import PROTO_FILE

PROMPT = {"model": MODELS[0], "prompt": "Say hello"}
STATUS = health_pb2.HealthCheckResponse


def test_health_is_asked_without_a_key() -> None:
    with grpc_server(keyed(quick())) as server, grpc.insecure_channel(server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == STATUS.SERVING
        with pytest.raises(grpc.RpcError) as failed:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_is_told_of_the_drain_and_ends_with_the_server() -> None:
    engine = HeldEngine(["one"])
    with grpc_server(keyed(engine), grace_s=20.0) as server, client_of(server, KEYS["enterprise"]) as client:
        running = client.call("GenerateStream", PROMPT, timeout=20.0)
        assert next(running).text == "one"
        watch = health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == STATUS.SERVING
        server.begin_drain()
        assert next(watch).status == STATUS.NOT_SERVING
        engine.release()
        assert [frame.finish_reason for frame in running] == ["stop"]
        with pytest.raises((StopIteration, grpc.RpcError)):
            next(watch)


def test_a_draining_server_refuses_new_calls_and_lets_running_ones_end() -> None:
    engine = HeldEngine(["one"])
    with grpc_server(keyed(engine), grace_s=20.0) as server, client_of(server, KEYS["enterprise"]) as client:
        running = client.call("GenerateStream", PROMPT, timeout=20.0)
        assert next(running).text == "one"
        server.begin_drain()
        with pytest.raises(grpc.RpcError) as failed:
            client.call("Generate", PROMPT)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        engine.release()
        (last,) = running
        assert (last.finish_reason, last.usage.completion_tokens) == ("stop", 1)


def test_what_does_not_end_within_the_grace_period_is_cancelled_with_a_last_frame() -> None:
    engine = HeldEngine(["one"])
    with grpc_server(keyed(engine), grace_s=0.1) as server, client_of(server, KEYS["enterprise"]) as client:
        running = client.call("GenerateStream", PROMPT, timeout=20.0)
        assert next(running).text == "one"
        chat = client.call("ChatStream", {"model": MODELS[0], "messages": [{"user": {"content": {"text": "Hi"}}}]})
        assert next(chat).choices[0].delta.role == "assistant"
        server.begin_drain()
        (last,) = running
        assert last.finish_reason == "cancelled"
        with pytest.raises(grpc.RpcError) as failed:
            list(chat)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_reflection_lists_the_services_without_a_key() -> None:
    with grpc_server(keyed(quick())) as server, grpc.insecure_channel(server.grpc_address) as channel:
        names = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_both_servers_end_when_one_is_told_to() -> None:
    with grpc_server(keyed(quick())) as server:
        address = server.grpc_address
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as failed:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


CLIENT = """
import sys
import grpc
from deepseek.v1 import deepseek_pb2 as v1, deepseek_pb2_grpc

key = (("authorization", "Bearer " + sys.argv[2]),)
with grpc.insecure_channel(sys.argv[1]) as channel:
    api = deepseek_pb2_grpc.DeepSeekStub(channel)
    models = api.Models(v1.ModelsRequest(), metadata=key, timeout=10)
    prompt = v1.GenerateRequest(model=models.data[0].id, prompt="Hi", temperature=0.0, max_tokens=100)
    print(api.Generate(prompt, metadata=key, timeout=10).text)
    print("".join(frame.text for frame in api.GenerateStream(prompt, metadata=key, timeout=10)))
    user = v1.UserMessage(content=v1.UserMessageContent(text="Hi"))
    chat = v1.ChatRequest(model=prompt.model, messages=[v1.ChatRequestMessagesItem(user=user)])
    print(api.Chat(chat, metadata=key, timeout=10).choices[0].message.content)
    chunks = list(api.ChatStream(chat, metadata=key, timeout=10))
    print("".join(choice.delta.content for chunk in chunks for choice in chunk.choices))
    assert chunks[-1].usage.total_tokens
"""


def test_a_client_compiled_from_the_proto_file_calls_everything(tmp_path: Path) -> None:
    source = tmp_path / "proto" / "deepseek" / "v1" / "deepseek.proto"
    source.parent.mkdir(parents=True)
    source.write_bytes(PROTO_FILE.read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path / 'proto'}"]
    command += [f"--python_out={out}", f"--grpc_python_out={out}", str(source)]
    subprocess.run(command, check=True, timeout=60)
    with grpc_server(keyed(quick("as compiled"))) as server:
        # In a folder of its own: there, `deepseek` is the generated code.
        ran = subprocess.run(
            [sys.executable, "-c", CLIENT, server.grpc_address, KEYS["enterprise"]],
            cwd=out,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["as compiled"] * 4


def test_a_call_whose_thread_dies_with_its_channel_ends_its_work() -> None:
    engine = HeldEngine(["one"])
    with grpc_server(keyed(engine)) as server:
        first = threading.Event()

        def read() -> None:
            with client_of(server, KEYS["enterprise"]) as client:
                next(client.call("GenerateStream", PROMPT))
                first.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert first.wait(10)
        reader.join(10)
        assert engine.ended.wait(5)
