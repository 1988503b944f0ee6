"""Tool schemas as the model meets them: many names for one operation, renamed parameters, other tools beside them.

The canonical tools (first name, first parameter names) are what the shipped agent offers. In a third of the
samples names are random strings, so the model learns to read them from the schema. Parameters then keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from deepseek.training.curriculum import words
from deepseek.training.curriculum.sample import Language, Tool


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument: the names it goes by (canonical first), its JSON type, its enumeration, what may be said about it."""

    names: tuple[str, ...]
    type: str = "string"
    enum: tuple[str, ...] = ()
    required: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A tool in all its guises. `serves` maps an operation to the arguments that select it (an ``op``, say)."""

    names: tuple[str, ...]
    en: tuple[str, ...]
    zh: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    serves: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


CALCULATOR = Spec(
    ("calculator", "calc", "calculate", "evaluate", "math", "compute", "arithmetic", "eval_expression"),
    (
        "Evaluate an arithmetic expression",
        "Do arithmetic",
        "Calculate an expression",
        "Compute a numeric expression",
        "A calculator",
    ),
    ("计算算术表达式", "做算术运算", "计算器", "求表达式的值", "数学计算"),
    (Parameter(("expression", "expr", "formula", "input", "math"), note="arithmetic expression"),),
    {"calculate": {}},
)
CONVERT = Spec(
    ("convert", "unit_convert", "convert_units", "units", "unit_converter", "conversion"),
    ("Convert a value between units", "Unit conversion", "Change a quantity to another unit", "Convert units"),
    ("单位换算", "把数值换算成另一种单位", "换算单位", "转换度量单位"),
    (
        Parameter(("value", "amount", "number", "quantity"), "number", note="amount to convert"),
        Parameter(("from", "from_unit", "source", "unit"), note="its unit"),
        Parameter(("to", "to_unit", "target", "into"), note="target unit"),
    ),
    {"convert": {}},
)
DATE = Spec(
    ("date", "dates", "calendar", "date_tool", "date_calc", "date_math"),
    ("Date arithmetic", "Calculate with dates", "Add days, compare dates, find weekdays", "Calendar calculations"),
    ("日期计算", "计算日期", "日期加减、相差天数、星期几", "日历计算"),
    (
        Parameter(("op", "operation", "action"), enum=("add", "diff", "weekday")),
        Parameter(("date", "start", "day"), note="YYYY-MM-DD"),
        Parameter(("days", "offset", "delta"), "integer", required=False, note="days to add"),
        Parameter(("end", "until", "other"), required=False, note="second date"),
    ),
    {"date_add": {"op": "add"}, "date_diff": {"op": "diff"}, "date_weekday": {"op": "weekday"}},
)
MEMORY_SET = Spec(
    ("memory_set", "remember", "save_note", "store", "kv_set", "memory_write", "set_value"),
    ("Remember a value under a key", "Store a value", "Save a note to memory", "Write to memory"),
    ("按键保存一个值", "记住信息", "存储一个值", "写入记忆"),
    (
        Parameter(("key", "name", "label", "title"), note="what to call it"),
        Parameter(("value", "content", "data", "text"), note="what to keep"),
    ),
    {"memory_set": {}},
)
MEMORY_GET = Spec(
    ("memory_get", "recall", "load_note", "fetch", "kv_get", "memory_read", "get_value"),
    ("Recall a value by its key", "Get a stored value", "Read a note from memory", "Read from memory"),
    ("按键取出保存的值", "回忆信息", "读取保存的值", "读取记忆"),
    (Parameter(("key", "name", "label", "title"), note="what it is called"),),
    {"memory_get": {}},
)
MEMORY = Spec(
    ("memory", "notes", "kv", "key_value", "notebook"),
    ("Remember and recall values by key", "Key-value memory", "Save or read notes"),
    ("按键保存和读取信息", "键值记忆", "保存或读取笔记"),
    (
        Parameter(("op", "operation", "action"), enum=("set", "get")),
        Parameter(("key", "name", "label"), note="what it is called"),
        Parameter(("value", "content", "data"), required=False, note="what to keep"),
    ),
    {"memory_set": {"op": "set"}, "memory_get": {"op": "get"}},
)
SEARCH = Spec(
    ("web_search", "search", "search_web", "google", "find_online", "internet_search", "lookup"),
    ("Search the web", "Find pages on the internet", "Look something up online", "Web search engine"),
    ("搜索网页", "上网查找资料", "网络搜索", "搜索引擎"),
    (Parameter(("query", "q", "keywords", "search_term", "text"), note="what to look for"),),
    {"search": {}},
)
SPECS = (CALCULATOR, CONVERT, DATE, MEMORY_SET, MEMORY_GET, MEMORY, SEARCH)
OPERATIONS = tuple(dict.fromkeys(operation for spec in SPECS for operation in spec.serves))

_P = Parameter
BYSTANDERS = (
    Spec(("send_email", "mail"), ("Send an email",), ("发送邮件",), (_P(("to",)), _P(("body", "text")))),
    Spec(("get_weather", "weather"), ("Current weather of a city",), ("查询城市天气",), (_P(("city", "location")),)),
    Spec(("translate", "translation"), ("Translate a text",), ("翻译文本",), (_P(("text",)), _P(("language", "target")))),
    Spec(("set_timer", "timer"), ("Start a timer",), ("设置计时器",), (_P(("seconds", "minutes"), "integer"),)),
    Spec(("play_music", "music"), ("Play a song",), ("播放歌曲",), (_P(("song", "title")),)),
    Spec(("read_file", "open_file"), ("Read a file",), ("读取文件",), (_P(("path", "file")),)),
    Spec(("run_shell", "shell"), ("Run a shell command",), ("执行命令",), (_P(("command", "cmd")),)),
    Spec(("book_table", "reserve"), ("Book a restaurant table",), ("预订餐厅座位",), (_P(("restaurant",)), _P(("people",), "integer"))),
    Spec(("take_photo", "camera"), ("Take a photo",), ("拍照",), ()),
    Spec(("stock_price", "quote"), ("Price of a stock",), ("查询股价",), (_P(("symbol", "ticker")),)),
    Spec(("turn_on_light", "light"), ("Switch a light on",), ("打开电灯",), (_P(("room",)),)),
    Spec(("draw_image", "image"), ("Draw a picture",), ("画一张图",), (_P(("prompt",)),)),
)  # fmt: skip
"""Tools that nobody in the curriculum asks for: they only stand beside the one that matters."""


@dataclass(frozen=True, slots=True)
class Dressed:
    """A `Spec` under the names of one sample."""

    spec: Spec
    tool: Tool
    renamed: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.tool["function"]["name"])

    def arguments(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Canonical `arguments` of `operation` under this sample's names, in the order of its schema."""
        given = {**self.spec.serves[operation], **arguments}
        canonical = {renamed: name for name, renamed in self.renamed.items()}
        order = (canonical[name] for name in self.tool["function"]["parameters"]["properties"])
        return {self.renamed[name]: given[name] for name in order if name in given}


def dress(rng: Random, spec: Spec, language: Language) -> Dressed:
    """One guise of `spec`: canonical (a third), by another known name (a third), or under random names (a third)."""
    guise = rng.random()
    descriptions = spec.en if language == "en" or rng.random() < 0.3 else spec.zh
    renamed: dict[str, str] = {}
    if guise < 0.35:
        name = spec.names[0]
        renamed = {p.names[0]: p.names[0] for p in spec.parameters}
    elif guise < 0.67:
        name = rng.choice(spec.names)
        renamed = {p.names[0]: rng.choice(p.names) for p in spec.parameters}
    else:
        name = words.identifier(rng) if rng.random() < 0.7 else words.random_string(rng, 4, 8)
        random_parameters = rng.random() < 0.6
        for p in spec.parameters:
            renamed[p.names[0]] = _fresh(rng, renamed) if random_parameters else rng.choice(p.names)
    description = rng.choice(descriptions)
    shuffled = guise < 0.67 and rng.random() < 0.15
    noted = rng.random() < 0.15
    parameters = list(spec.parameters)
    if shuffled:
        rng.shuffle(parameters)
    properties = {renamed[p.names[0]]: _property(p, noted) for p in parameters}
    required = [renamed[p.names[0]] for p in parameters if p.required]
    return Dressed(spec, function_tool(name, description, properties, required), renamed)


def _fresh(rng: Random, taken: Mapping[str, str]) -> str:
    while True:
        name = words.identifier(rng)
        if name not in taken.values():
            return name


def _property(parameter: Parameter, noted: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.type}
    if parameter.enum:
        schema["enum"] = list(parameter.enum)
    if noted and parameter.note:
        schema["description"] = parameter.note
    return schema


def function_tool(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]) -> Tool:
    """A tool in OpenAI form."""
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def canonical_tool(spec: Spec) -> Tool:
    """`spec` under its first names: what an agent should offer this model."""
    properties = {p.names[0]: _property(p, False) for p in spec.parameters}
    return function_tool(spec.names[0], spec.en[0], properties, [p.names[0] for p in spec.parameters if p.required])


def toolbox(
    rng: Random, operation: str | None, count: int, language: Language, avoid: Sequence[str] = ()
) -> list[Dressed]:
    """`count` tools in random order: one serves `operation` (if given), and no two serve the same.

    `avoid` names operations that none of the tools may serve.
    """
    chosen: list[Spec] = []
    if operation is not None:
        servers = [spec for spec in SPECS if operation in spec.serves]
        chosen.append(rng.choice(servers))
        # The two halves of a memory usually come together.
        halves = {MEMORY_SET.names: MEMORY_GET, MEMORY_GET.names: MEMORY_SET}
        other = halves.get(chosen[0].names)
        if other is not None and count > 1 and rng.random() < 0.6:
            chosen.append(other)
    while len(chosen) < count:
        spec = rng.choice(BYSTANDERS if rng.random() < 0.3 else SPECS)
        taken = {name for c in chosen for name in c.serves} | set(avoid)
        if spec not in chosen and not taken & set(spec.serves):
            chosen.append(spec)
    rng.shuffle(chosen)
    return [dress(rng, spec, language) for spec in chosen]
