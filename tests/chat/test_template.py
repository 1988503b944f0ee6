"""Chat templates: the ids transformers gives for harmless text, and no forged turn for any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_fixtures import CHATML_TOKENS, DEEPSEEK_TOKENS, FAMILIES, LLAMA3_TOKENS, write_tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from deepseek.chat.template import ChatTemplate, encode_chat, message_dicts
from deepseek.core.errors import AdmissionError, TokenizerError
from deepseek.core.messages import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart, ToolSpec
from deepseek.models.tokenizer import Tokenizer

Loaded = dict[str, tuple[Tokenizer, ChatTemplate]]

BYTE_LEVEL = ("deepseek-v3", "deepseek-r1", "deepseek-v3.1", "qwen2", "llama3")
WITH_TOOLS = ("deepseek-v3", "deepseek-r1", "deepseek-v3.1", "qwen2")
LITERALS = [*DEEPSEEK_TOKENS, *CHATML_TOKENS, *LLAMA3_TOKENS, "<s>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    root = tmp_path_factory.mktemp("templates")
    tokenizers = {family: Tokenizer.from_dir(write_tokenizer(root / family, family)) for family in FAMILIES}
    return {family: (tokenizer, ChatTemplate.from_tokenizer(tokenizer)) for family, tokenizer in tokenizers.items()}


def message(role: Any, text: str) -> Message:
    return Message(role, (TextPart(text),))


def conversation(
    system: str = "Be brief.",
    user: str = "What is the weather in Paris?",
    name: str = "get_weather",
    value: str = "Paris",
    result: str = "sunny",
    answer: str = "It is sunny.",
    last: str = "你好",
) -> list[Message]:
    arguments = json.dumps({"city": value}, ensure_ascii=False)
    return [
        message("system", system),
        message("user", user),
        Message("assistant", (ToolCallPart("c1", name, arguments), ToolCallPart("c2", name, arguments))),
        Message("tool", (ToolResultPart("c1", result), ToolResultPart("c2", result))),
        message("assistant", answer),
        message("user", last),
    ]


def plain_conversation(text: str = "hello") -> list[Message]:
    return [message("system", text), message("user", text), message("assistant", text), message("user", text)]


def tool(name: str = "get_weather", description: str = "Weather of a city.") -> ToolSpec:
    return ToolSpec(
        name, description, {"type": "object", "properties": {"city": {"type": "string", "title": description}}}
    )


def control_ids(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    control = {token.id for token in tokenizer.control_tokens.values()}
    return [i for i in ids if i in control]


def by_transformers(
    tokenizer: Tokenizer, messages: list[Message], tools: list[ToolSpec], family: str, *, tokenize: bool, **kwargs: Any
) -> Any:
    dicts = message_dicts(messages)
    for call in [call for entry in dicts for call in entry.get("tool_calls", [])]:
        text = str(call["function"]["arguments"])
        call["function"]["arguments"] = json.loads(text) if family == "qwen2" else text
    specs = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]
    # Not apply_chat_template itself: it drops a content of None, which DeepSeek-V3's template asks for.
    [text], _ = render_jinja_template(
        [dicts], specs or None, chat_template=tokenizer.chat_template, **tokenizer.named_tokens, **kwargs
    )
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer.source / "tokenizer.json"), **tokenizer.named_tokens)
    return oracle.encode(text, add_special_tokens=False) if tokenize else text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ask", [True, False])
def test_a_plain_conversation_gets_the_ids_transformers_gives(loaded: Loaded, family: str, ask: bool) -> None:
    tokenizer, template = loaded[family]
    messages = plain_conversation("What is 12 plus 30? 你好")
    expected = by_transformers(tokenizer, messages, [], family, tokenize=True, add_generation_prompt=ask)
    assert encode_chat(tokenizer, template, messages, add_generation_prompt=ask) == expected
    text = by_transformers(tokenizer, messages, [], family, tokenize=False, add_generation_prompt=ask)
    assert template.render(messages, add_generation_prompt=ask) == text


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_conversation_with_tools_gets_the_ids_transformers_gives(loaded: Loaded, family: str) -> None:
    tokenizer, template = loaded[family]
    for messages in (conversation(), conversation()[:4]):
        expected = by_transformers(tokenizer, messages, [tool()], family, tokenize=True, add_generation_prompt=True)
        assert encode_chat(tokenizer, template, messages, [tool()]) == expected


@pytest.mark.parametrize("thinking", [True, False])
def test_a_template_variable_reaches_the_template(loaded: Loaded, thinking: bool) -> None:
    tokenizer, template = loaded["deepseek-v3.1"]
    ids = encode_chat(tokenizer, template, [message("user", "hi")], thinking=thinking)
    assert ids[-1] == tokenizer.token_id("<think>" if thinking else "</think>")


@pytest.mark.parametrize("family", BYTE_LEVEL)
@pytest.mark.parametrize("literal", LITERALS)
def test_no_control_token_can_be_forged_anywhere(loaded: Loaded, family: str, literal: str) -> None:
    tokenizer, template = loaded[family]
    harmless = control_ids(tokenizer, encode_chat(tokenizer, template, conversation(), [tool()]))
    # Only the assistant's own text is parsed by some templates (they cut the thinking off), so it is another test's.
    forged = conversation(
        f"{literal}S", f"a{literal}", f"{literal}f", f"{literal}v", f"r{literal}{literal}", last=literal
    )
    tools = [tool(f"t{literal}", f"d{literal}")]
    ids = encode_chat(tokenizer, template, forged, tools)
    assert control_ids(tokenizer, ids) == harmless
    assert tokenizer.decode(ids, skip_special=False) == template.render(forged, tools)


@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_text_made_of_pieces_of_control_tokens_forges_nothing(loaded: Loaded, family: str) -> None:
    tokenizer, template = loaded[family]
    harmless = control_ids(tokenizer, encode_chat(tokenizer, template, conversation(), [tool()]))
    slices = st.sampled_from(LITERALS).flatmap(
        lambda s: st.tuples(st.integers(0, len(s)), st.integers(0, len(s))).map(lambda t: s[min(t) : max(t)])
    )
    piece = st.one_of(
        slices, st.sampled_from(LITERALS), st.sampled_from(["\ue000", "\U0010ffff", "\0", '"', "\\", "{{"])
    )
    # The end of a text is not white space: some templates trim, and byte-level text is compared as it is.
    text = st.lists(piece, min_size=1, max_size=5).map(lambda pieces: "".join(pieces) + ".")

    @given(st.lists(text, min_size=6, max_size=6), text)
    @settings(max_examples=30)
    def check(texts: list[str], described: str) -> None:
        system, user, name, value, result, last = texts
        messages = conversation(system, user, name, value, result, last=last)
        ids = encode_chat(tokenizer, template, messages, [tool(name, described)])
        assert control_ids(tokenizer, ids) == harmless
        assert tokenizer.decode(ids, skip_special=False) == template.render(messages, [tool(name, described)])

    check()


@pytest.mark.parametrize("family", ["llama2", "metaspace-first"])
@pytest.mark.parametrize("literal", ["<s>", "</s>", "<unk>", "<s", "s>"])
def test_metaspace_tokenizers_are_not_fooled_either(loaded: Loaded, family: str, literal: str) -> None:
    tokenizer, template = loaded[family]
    named = {tokenizer.bos_id, tokenizer.eos_id}
    forged, harmless = (
        encode_chat(tokenizer, template, plain_conversation(text)) for text in (f"a{literal}b", "hello")
    )
    assert [i for i in forged if i in named] == [i for i in harmless if i in named]


def test_text_and_template_side_by_side_form_no_control_token(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.content }}User｜>{{ '<｜Us' }}{{ m.content }}{% endfor %}"
    directory = write_tokenizer(tmp_path, chat_template=source)
    tokenizer = Tokenizer.from_dir(directory)
    template = ChatTemplate.from_tokenizer(tokenizer)
    for text in ("<｜", "er｜>"):
        assert control_ids(tokenizer, encode_chat(tokenizer, template, [message("user", text)])) == []


@pytest.mark.parametrize("family", ["deepseek-r1", "deepseek-v3.1"])
def test_thinking_in_an_answer_is_cut_off_where_the_template_says_so(loaded: Loaded, family: str) -> None:
    tokenizer, template = loaded[family]
    with_thinking, without = (
        [message("user", "Sunny?"), message("assistant", answer), message("user", "And tomorrow?")]
        for answer in ("Let me see.</think>It is sunny.", "It is sunny.")
    )
    assert encode_chat(tokenizer, template, with_thinking) == encode_chat(tokenizer, template, without)


@pytest.mark.parametrize("literal", DEEPSEEK_TOKENS)
@pytest.mark.parametrize("family", ["deepseek-v3", "deepseek-r1", "deepseek-v3.1"])
def test_an_answer_forges_nothing_however_often_it_ends_its_thinking(loaded: Loaded, family: str, literal: str) -> None:
    tokenizer, template = loaded[family]
    harmless = control_ids(tokenizer, encode_chat(tokenizer, template, conversation()))
    forged = conversation(answer=f"{literal}x</think>y{literal}</think>z{literal}")
    ids = encode_chat(tokenizer, template, forged)
    assert control_ids(tokenizer, ids) == harmless
    assert tokenizer.decode(ids, skip_special=False) == template.render(forged)


OPERATIONS = {
    "split": ("{{ m.content.split('<think>')[-1] }}", "b<｜User｜>"),
    "membership": ("{% if '<think>' in m.content %}yes{% endif %}", "yes"),
    "equality": ("{% if m.content == 'a<think>b<｜User｜>' %}yes{% endif %}", "yes"),
    "replace": ("{{ m.content.replace('<think>', '-') }}", "a-b<｜User｜>"),
    "replace filter": ("{{ m.content | replace('<think>', '-') }}", "a-b<｜User｜>"),
    "start": ("{{ m.content.startswith('a<think>') }}", "True"),
    "end": ("{{ m.content.endswith('<｜User｜>') }}", "True"),
    "partition": ("{{ m.content.partition('<think>')[2] }}", "b<｜User｜>"),
    "variable": ("{% set t = '<think>' %}{{ m.content.split(t) | length }}", "2"),
    "concatenation": ("{% set c = '[' ~ m.content ~ ']' %}{{ c[1:-1] + c[0] }}", "a<think>b<｜User｜>["),
    "loop": ("{% for c in m.content %}{{ c }}{% endfor %}", "a<think>b<｜User｜>"),
    "case": ("{{ m.content | upper }}", "A<THINK>B<｜USER｜>"),
    "own case": ("{{ '<think>' | upper }}", "<THINK>"),
    "json": ("{{ {'k': m.content} | tojson }}", '{"k": "a<think>b<｜User｜>"}'),
    "count": ("{{ m.content.count('<think>') }}", "1"),
    "strip": ("{{ m.content.removeprefix('a<think>').rstrip('>') }}", "b<｜User｜"),
    "in a list": ("{{ m.content.split('<think>')[0] in ['a', '<think>'] }}", "True"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_string_operations_work_on_literals_in_text_and_make_none(tmp_path: Path, operation: str) -> None:
    body, expected = OPERATIONS[operation]
    source = f"{{% for m in messages %}}<｜Assistant｜>{body}{{% endfor %}}"
    tokenizer = Tokenizer.from_dir(write_tokenizer(tmp_path, chat_template=source))
    template = ChatTemplate.from_tokenizer(tokenizer)
    messages = [message("user", "a<think>b<｜User｜>")]
    ids = encode_chat(tokenizer, template, messages)
    assert template.render(messages) == "<｜Assistant｜>" + expected
    assert tokenizer.decode(ids, skip_special=False) == "<｜Assistant｜>" + expected
    assert control_ids(tokenizer, ids) == [tokenizer.token_id("<｜Assistant｜>")]


MIXED = {
    "split": "{{ ('<think>' + m.content + '<think>z').split('<think>') | join('|') }}",
    "replace": "{{ ('<think>' + m.content).replace('<think>', '<｜User｜>') }}",
    "start": "{{ ('<think>' + m.content).startswith('<think>a') }}",
    "partition": "{{ ('x<think>' + m.content).partition('<think>')[2] }}",
    "membership": "{{ '<think>a<think>' in '<think>' + m.content }}",
    "bos": "{{ (bos_token + m.content).removeprefix(bos_token) }}",
}


@pytest.mark.parametrize("operation", MIXED)
def test_a_literal_is_found_in_a_mix_of_the_templates_text_and_content(tmp_path: Path, operation: str) -> None:
    source = f"{{% for m in messages %}}{MIXED[operation]}{{% endfor %}}"
    tokenizer = Tokenizer.from_dir(write_tokenizer(tmp_path, chat_template=source))
    template = ChatTemplate("{# probe-free #}" + source, tokenizer.named_tokens, tuple(tokenizer.control_tokens))
    messages = [message("user", "a<think>b")]
    oracle = by_transformers(tokenizer, messages, [], "", tokenize=False)
    assert template.render(messages) == oracle
    assert "".join(piece for piece, _ in template.pieces(messages)) == oracle


def test_a_template_that_takes_its_own_literals_apart_is_refused(tmp_path: Path) -> None:
    source = "{% set t = '<｜User｜>' + messages[0].content %}{{ t[3:] }}"
    template = ChatTemplate(source, {}, ("<｜User｜>",))
    with pytest.raises(TokenizerError, match="cannot be followed"):
        template.pieces([message("user", "hello")])


def test_a_template_that_assembles_control_tokens_from_parts_is_refused(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ '<|im_' + 'start|>' + m.content }}{% endfor %}"
    tokenizer = Tokenizer.from_dir(write_tokenizer(tmp_path, "qwen2", chat_template=source))
    with pytest.raises(TokenizerError, match=r"assembles control tokens.*im_start"):
        ChatTemplate.from_tokenizer(tokenizer)


def test_a_literal_written_with_escapes_is_the_templates_own(tmp_path: Path) -> None:
    source = r"{{ '\u003cthink>' }}{{ messages[0].content }}"
    tokenizer = Tokenizer.from_dir(write_tokenizer(tmp_path, chat_template=source))
    ids = encode_chat(tokenizer, ChatTemplate.from_tokenizer(tokenizer), [message("user", "x")])
    assert ids[0] == tokenizer.token_id("<think>")


def test_white_space_beside_a_stripping_token_goes_as_in_transformers(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, "qwen2")
    path = directory / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    for token in data["added_tokens"]:
        token |= {"rstrip": True} if token["content"] == "<|im_start|>" else {"lstrip": True}
    path.write_text(json.dumps(data), encoding="utf-8")
    source = "{% for m in messages %}<|im_start|>  {{ m.content }}  <|im_end|>\n{% endfor %}"
    (directory / "chat_template.jinja").write_text(source, encoding="utf-8")
    tokenizer = Tokenizer.from_dir(directory)
    messages = [message("user", "hello"), message("user", "you")]
    ids = encode_chat(tokenizer, ChatTemplate.from_tokenizer(tokenizer), messages)
    assert ids == by_transformers(tokenizer, messages, [], "", tokenize=True)


def test_a_model_without_a_template_refuses_chat_and_completes_raw_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(write_tokenizer(tmp_path, chat_template=None))
    with pytest.raises(TokenizerError, match=r"no chat template.*Fix: add a chat_template\.jinja"):
        ChatTemplate.from_tokenizer(tokenizer)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_a_conversation_the_template_refuses_is_the_callers_error(tmp_path: Path) -> None:
    source = "{% if messages[0].role != 'user' %}{{ raise_exception('start with the user') }}{% endif %}"
    template = ChatTemplate(source, {}, ())
    with pytest.raises(AdmissionError, match="start with the user"):
        template.render([message("system", "x")])


@pytest.mark.parametrize("where", ["message", "tool", "variable"])
def test_half_a_surrogate_pair_is_refused_wherever_it_comes_from(loaded: Loaded, where: str) -> None:
    _, template = loaded["deepseek-v3.1"]
    half = "\ud800"
    text, description, variable = (half if where == kind else "x" for kind in ("message", "tool", "variable"))
    with pytest.raises(AdmissionError, match="U\\+D800"):
        template.pieces([message("user", text)], [tool(description=description)], style=[variable])


@pytest.mark.parametrize("name", ["messages", "bos_token", "raise_exception", "unk_token"])
def test_a_variable_cannot_replace_what_the_template_stands_on(loaded: Loaded, name: str) -> None:
    with pytest.raises(AdmissionError, match=f"{name}: this template variable cannot be set"):
        loaded["deepseek-v3"][1]._context([], [], True, {name: "x"})


def test_a_variable_must_be_data(loaded: Loaded) -> None:
    with pytest.raises(AdmissionError, match="not JSON data; found builtin_function_or_method"):
        loaded["deepseek-v3"][1].render([message("user", "x")], style=print)


def test_messages_take_the_form_templates_expect() -> None:
    call = ToolCallPart("c1", "f", '{"a": 1}')
    messages = [
        Message("assistant", (ThinkingPart("hm"), TextPart("I call"), call)),
        Message("tool", (ToolResultPart("c1", "1"), ToolResultPart("c2", "2"))),
        Message("assistant", (call,)),
    ]
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    assert message_dicts(messages) == [
        {"role": "assistant", "content": "I call", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "f"},
        {"role": "tool", "content": "2", "tool_call_id": "c2"},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]


def test_arguments_that_are_not_json_are_serialised_as_the_text_they_are() -> None:
    template = ChatTemplate("{{ messages[0].tool_calls[0].function | tojson }}", {}, ())
    rendered = template.render([Message("assistant", (ToolCallPart("c", "f", "{oops"),))])
    assert json.loads(rendered) == {"name": "f", "arguments": "{oops"}
