"""Tokenizers and chat templates made here, in the shape of the official ones: for every test that needs text.

The templates follow the published behaviour of each family, in our own words.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
# As in DeepSeek-V3's own files, only some are flagged special.
DEEPSEEK_TOKENS = {
    BOS: True,
    EOS: True,
    "<｜▁pad▁｜>": True,
    "<｜User｜>": False,
    "<｜Assistant｜>": False,
    "<think>": False,
    "</think>": False,
    "<｜tool▁calls▁begin｜>": False,
    "<｜tool▁calls▁end｜>": False,
    "<｜tool▁call▁begin｜>": False,
    "<｜tool▁call▁end｜>": False,
    "<｜tool▁outputs▁begin｜>": False,
    "<｜tool▁outputs▁end｜>": False,
    "<｜tool▁output▁begin｜>": False,
    "<｜tool▁output▁end｜>": False,
    "<｜tool▁sep｜>": False,
}
DEEPSEEK_V4_TOKENS = {
    BOS: True,
    EOS: True,
    "<｜User｜>": False,
    "<｜Assistant｜>": False,
    "<think>": False,
    "</think>": False,
    "｜DSML｜": False,
}
CHATML_TOKENS = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
}
LLAMA3_TOKENS = {
    "<|begin_of_text|>": True,
    "<|end_of_text|>": True,
    "<|start_header_id|>": True,
    "<|end_header_id|>": True,
    "<|eot_id|>": True,
}

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and what is 12 plus 30?",
    "What is the weather in Paris? The answer is sunny, 21 degrees.",
    "你好，请问今天北京的天气怎么样？今天晴，气温二十一度。",
    'get_weather {"city": "Paris", "days": 3} user assistant system tool think begin end of sentence im_start',
    "call result calls outputs sep User Assistant <| |> < > / ｜ ▁",
]

TOOL_CALL = """'<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] \
+ '\\n```json\\n' + call['function']['arguments'] + '\\n```<｜tool▁call▁end｜>'"""

DEEPSEEK_V3 = (
    """{% set ns = namespace(system='', in_tools=false) %}
{%- for m in messages if m['role'] == 'system' %}{% set ns.system = ns.system + m['content'] %}{% endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for m in messages -%}
{%- if m['role'] == 'user' %}{% set ns.in_tools = false %}{{ '<｜User｜>' + m['content'] }}{% endif -%}
{%- if m['role'] == 'assistant' and m['content'] is none -%}
{%- set ns.in_tools = false -%}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
{%- for call in m['tool_calls'] %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ """
    + TOOL_CALL
    + """ }}{% endfor -%}
{{ '<｜tool▁calls▁end｜>' + eos_token }}
{%- endif -%}
{%- if m['role'] == 'assistant' and m['content'] is not none -%}
{%- if ns.in_tools %}{% set ns.in_tools = false %}{{ '<｜tool▁outputs▁end｜>' + m['content'] + eos_token }}
{%- else %}{{ '<｜Assistant｜>' + m['content'] + eos_token }}{% endif -%}
{%- endif -%}
{%- if m['role'] == 'tool' -%}
{%- if ns.in_tools %}{{ '\\n<｜tool▁output▁begin｜>' + m['content'] + '<｜tool▁output▁end｜>' }}
{%- else %}{% set ns.in_tools = true %}
{{- '<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + m['content'] + '<｜tool▁output▁end｜>' }}{% endif -%}
{%- endif -%}
{%- endfor -%}
{% if ns.in_tools %}{{ '<｜tool▁outputs▁end｜>' }}{% elif add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"""
)

# R1 drops the thinking of earlier turns and opens a new one.
DEEPSEEK_R1 = DEEPSEEK_V3.replace(
    "{{ '<｜Assistant｜>' + m['content'] + eos_token }}",
    "{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
    "{% endif %}{{ '<｜Assistant｜>' + content + eos_token }}",
).replace("{{ '<｜Assistant｜>' }}{% endif %}", "{{ '<｜Assistant｜><think>\\n' }}{% endif %}")

DEEPSEEK_V31 = """{% if thinking is not defined %}{% set thinking = false %}{% endif %}
{%- set ns = namespace(system='', after_user=false, in_tool=false) %}
{%- for m in messages if m.role == 'system' %}
{%- set ns.system = ns.system + ('\\n\\n' if ns.system else '') + m.content %}{% endfor -%}
{%- if tools %}{% set ns.system = ns.system ~ '\\n\\n## Tools\\n' %}{% for tool in tools %}
{%- set ns.system = ns.system ~ '\\n### ' ~ tool.function.name ~ '\\n' ~ tool.function.description
 ~ '\\n\\nParameters: ' ~ (tool.function.parameters | tojson) ~ '\\n' %}{% endfor %}{% endif -%}
{{ bos_token }}{{ ns.system }}
{%- for m in messages -%}
{%- if m.role == 'user' %}{% set ns.in_tool = false %}{% set ns.after_user = true %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'assistant' and m.tool_calls is defined and m.tool_calls is not none -%}
{%- if ns.after_user %}{{ '<｜Assistant｜></think>' }}{% endif %}{% set ns.after_user = false -%}
{{ (m.content or '') + '<｜tool▁calls▁begin｜>' }}
{%- for call in m.tool_calls -%}
{{ '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' + call.function.arguments + '<｜tool▁call▁end｜>' }}
{%- endfor -%}
{{ '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
{%- elif m.role == 'assistant' -%}
{%- if ns.after_user %}{{ '<｜Assistant｜></think>' }}{% endif %}{% set ns.after_user = false -%}
{%- set content = m.content %}
{%- if '</think>' in content %}{% set content = content.split('</think>', 1)[1] %}{% endif -%}
{{ content + '<｜end▁of▁sentence｜>' }}
{%- elif m.role == 'tool' %}{% set ns.after_user = false -%}
{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and ns.after_user -%}
{{ '<｜Assistant｜>' }}{{ '<think>' if thinking else '</think>' }}{% endif %}"""

CHATML = """{%- if tools %}{{ '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif -%}
{{ '# Tools\\n<tools>' }}{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor -%}
{{ '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif -%}
{{ '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif -%}
{%- elif m.tool_calls -%}
{{ '<|im_start|>' + m.role }}{% if m.content %}{{ '\\n' + m.content }}{% endif -%}
{%- for call in m.tool_calls %}{% set f = call.function -%}
{{ '\\n<tool_call>\\n{"name": "' }}{{ f.name }}{{ '", "arguments": ' }}
{{- f.arguments | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}
{%- elif not (tools and loop.first and m.role == 'system') -%}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{% for m in messages %}
{%- set header = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' -%}
{%- set content = header + (m['content'] or '') | trim + '<|eot_id|>' -%}
{%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif -%}
{{ content }}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

LLAMA2 = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'assistant' %}{{ ' ' + (m.content or '') | trim + ' ' + eos_token }}
{%- else %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}{% endif -%}
{% endfor %}"""


@cache
def byte_level_json(tokens: tuple[tuple[str, bool], ...], style: str = "deepseek") -> str:
    """A byte-level BPE tokenizer.json; the tokens (literal, flagged special) are added after training."""
    tokenizer = HFTokenizer(models.BPE())
    if style == "deepseek":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
                pre_tokenizers.Split(Regex(r"[一-龥]+"), "isolated"),
                pre_tokenizers.Split(Regex(r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|\s+"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    for literal, special in tokens:
        token = AddedToken(literal, special=special, normalized=False)
        tokenizer.add_special_tokens([token]) if special else tokenizer.add_tokens([token])
    return str(tokenizer.to_str())


@cache
def metaspace_json(prepend: str = "normalizer") -> str:
    """A Llama-2-style tokenizer.json: "▁" for spaces, bytes where a character is missing.

    prepend: who adds the first space: a "normalizer", before each piece, or the pre-tokenizer, before the "first" one.
    """
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = HFTokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=560, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False, limit_alphabet=40
    )
    words.train_from_iterator(CORPUS[:2] * 4, trainer)
    data: dict[str, Any] = json.loads(words.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in ("<unk>", "<s>", "</s>")]
    tokenizer = HFTokenizer.from_str(json.dumps(data))
    if prepend == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return str(tokenizer.to_str())


FAMILIES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "deepseek-v3": (
        "deepseek",
        {"bos_token": BOS, "eos_token": EOS, "pad_token": "<｜▁pad▁｜>", "add_bos_token": True},
        DEEPSEEK_V3,
    ),
    "deepseek-r1": ("deepseek", {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True}, DEEPSEEK_R1),
    "deepseek-v3.1": ("deepseek", {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True}, DEEPSEEK_V31),
    "qwen2": ("chatml", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}, CHATML),
    "llama3": ("llama3", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, LLAMA3),
    "llama2": ("metaspace", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, LLAMA2),
    "metaspace-first": ("metaspace-first", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, LLAMA2),
}


# Without a template: conversations are encoded by a program.
WITHOUT_TEMPLATE: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "deepseek-v4": ("deepseek-v4", {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True}, None),
}


def tokenizer_json(kind: str) -> str:
    if kind.startswith("metaspace"):
        return metaspace_json("first" if kind == "metaspace-first" else "normalizer")
    tokens = {
        "deepseek": DEEPSEEK_TOKENS,
        "deepseek-v4": DEEPSEEK_V4_TOKENS,
        "chatml": CHATML_TOKENS,
        "llama3": LLAMA3_TOKENS,
    }[kind]
    return byte_level_json(tuple(tokens.items()), "deepseek" if kind.startswith("deepseek") else "gpt2")


def write_tokenizer(directory: Path, family: str = "deepseek-v3", **config: Any) -> Path:
    """Write a family's tokenizer files, with changes to tokenizer_config.json (None removes a field)."""
    kind, fields, template = (FAMILIES | WITHOUT_TEMPLATE)[family]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer_json(kind), encoding="utf-8")
    merged = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **fields, **config}
    text = json.dumps({key: value for key, value in merged.items() if value is not None}, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return directory
