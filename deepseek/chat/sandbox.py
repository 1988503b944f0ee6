"""The sandbox in which chat templates run: jinja as Hugging Face sets it up, marked and bounded.

A template comes with a downloaded checkpoint, and is a program. jinja's sandbox keeps it from reaching
Python; this module also keeps it from running for ever or filling the memory. While it runs it draws on
a budget: one unit for each call, loop turn and operator, and more for large values, so that every
source of work is paid for. Operations whose result could be far larger than their operands are priced
before they run, or left out.

The parse tree is rewritten before it is compiled: literals are marked (see `deepseek.chat.marks`), and
loops, filters, comparisons and concatenations report to the budget.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import CodeType
from typing import Any

from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from deepseek.chat.budget import (
    MAX_SOURCE_CHARS,
    Budget,
    BudgetExceeded,
    check_indent,
    price_product,
    price_replace,
    priced_join,
)
from deepseek.chat.marks import STRING_METHODS, Marks
from deepseek.chat.rewrite import Rewriter, tick

# Wide fields, and %c, which could make a mark.
_COSTLY_FORMAT = re.compile(r"%(\([^)]*\))?[-+ #0-9.hlL]*([*c]|[0-9]{4})")

# A space keeps the name out of a template's reach.
_BUDGET = "render budget"

_SAFE_FILTERS = (
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "groupby",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
)
# They look at the letters of a text, so a mark must be spelled out for them.
_PLAIN_FILTERS = ("capitalize", "count", "length", "lower", "title", "upper", "urlencode")
_DATA_METHODS: dict[type, frozenset[str]] = {
    str: STRING_METHODS,
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "grouper", "index", "list"}),
    int: frozenset(),
    float: frozenset(),
}


class ConversationRefused(TemplateError):
    """The template called raise_exception: it does not accept this conversation."""


class JsonText(str):
    """Text that is JSON already, such as a call's arguments: it prints as it is, and `tojson` does not quote it."""

    __slots__ = ()


def context_variables(variables: Mapping[str, object]) -> dict[str, Any]:
    """Variables of one rendering, with a fresh budget."""
    return {**variables, _BUDGET: Budget()}


def _budget(context: Context) -> Budget:
    budget = context.parent[_BUDGET]
    assert isinstance(budget, Budget)
    return budget


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """A jinja environment for one template and one set of marks."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, marks: Marks) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=_finalize,
            cache_size=0,
        )
        self.marks = marks
        self.tick = tick
        self.filters = {name: self.filters[name] for name in _SAFE_FILTERS} | {
            "indent": _indent,
            "join": _join,
            "replace": self._replace_filter,
            "safe": _text,
            "string": _text,
            "tojson": self._tojson,
            "_concat": _concat,
            "_operand": _operand_of(marks),
            "_spend": _spend,
        }
        self.filters |= {name: _on_plain(marks, self.filters[name]) for name in _PLAIN_FILTERS}
        self.globals = {
            "dict": _make_dict,
            "joiner": self.globals["joiner"],
            "namespace": _PublicNamespace,
            "raise_exception": _raise_exception,
            "range": self.globals["range"],
        }

    def compile_marked(self, source: str) -> CodeType:
        """Parse, mark and meter a template. Raises jinja2.TemplateError, RecursionError or SyntaxError."""
        if len(source) > MAX_SOURCE_CHARS:
            raise BudgetExceeded(f"the template is longer than {MAX_SOURCE_CHARS} characters")
        tree = Rewriter(self.marks).visit(self.parse(source))
        return self.compile(tree)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(__context)
        if __obj is tick:
            budget.pay(args[0])
            return None
        # Compiled code adds the scope of a loop or block to the keywords; jinja itself takes it out again.
        given = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
        budget.spend(args)
        budget.spend(given)
        receiver = getattr(__obj, "__self__", None)
        if isinstance(receiver, str):
            budget.spend(receiver)
            result = __self._call_string(receiver, __obj.__name__, args, given)
        else:
            result = super().call(__context, __obj, *args, **kwargs)
        budget.pay(len(result)) if isinstance(result, range) else budget.spend(result)
        return result

    def _call_string(self, receiver: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name not in STRING_METHODS:
            raise SecurityError(f"string method {name!r} is not available to templates")
        if name == "join" and args:
            args = (priced_join(receiver, args[0]), *args[1:])
        if name == "replace" and len(args) > 1:
            price_replace(receiver, args[0], args[1])
        return self.marks.string_method(receiver, name, args, kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget(context).spend(left)
        _budget(context).spend(right)
        if operator == "*":
            price_product(left, right)
        if operator == "**" and not (isinstance(right, int | float) and abs(right) <= 64 and abs(left) <= 1 << 64):
            raise BudgetExceeded("a power is out of range")
        if operator == "%" and isinstance(left, str):
            _require_data(right)
            if _COSTLY_FORMAT.search(left):
                raise BudgetExceeded("a format with a wide field or %c is not available to templates")
        result = super().call_binop(context, operator, left, right)
        _budget(context).spend(result)
        return result

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, self.marks.plain(argument) if isinstance(argument, str) else argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _DATA_METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    @staticmethod
    def wrap_str_format(value: Any) -> Callable[..., str] | None:
        """str.format is not offered at all, so there is nothing to wrap."""
        return None

    def _replace_filter(self, value: object, old: str, new: str, count: int = -1) -> str:
        text = _text(value)
        price_replace(text, old, new)
        replaced = self.marks.string_method(text, "replace", (old, new, -1 if count is None else count), {})
        assert isinstance(replaced, str)
        return replaced

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """As transformers defines it: no HTML escapes, non-ASCII characters as they are."""
        check_indent(indent)
        if ensure_ascii:  # would spell a mark as an escape
            value = self.marks.plain(value)
        return json.dumps(
            _json_value(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; in a prompt it is just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PublicNamespace(Namespace):
    """jinja's namespace without underscored names, which would reach Python's internals."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        values = dict(*args, **kwargs)
        for name in values:
            _require_public(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the underscored name {name!r}")


@pass_context
def _spend(context: Context, value: Any) -> Any:
    _budget(context).spend(value)
    return value


def _operand_of(marks: Marks) -> Callable[[Context, Any], Any]:
    @pass_context
    def operand(context: Context, value: Any) -> Any:
        return marks.plain(_spend(context, value))

    return operand


@pass_context
def _finalize(context: Context, value: Any) -> str:
    _budget(context).spend(value)
    return _text(value)


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    _budget(context).spend(values)
    return "".join(map(_text, values))


def _text(value: Any) -> str:
    """What printing a value gives. Only data and undefined names are printed: other objects could hide their size."""
    if isinstance(value, str):
        return str(value)
    _require_data(value)
    return str(value)


def _require_data(value: object) -> None:
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, list | tuple):
            waiting += entry
        elif isinstance(entry, Mapping):
            waiting += entry.values()
        elif entry is not None and not isinstance(entry, str | int | float | Undefined):
            raise SecurityError(f"a {type(entry).__name__} cannot be printed")


def _join(value: Iterable[Any], d: object = "", attribute: str | int | None = None) -> str:
    entries = list(value)
    if attribute is not None:
        entries = [entry[attribute] for entry in entries]
    separator = _text(d)
    return separator.join(priced_join(separator, [_text(entry) for entry in entries]))


def _indent(value: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """jinja's indent, at most 64 characters wide."""
    check_indent(width)
    prefix = width if isinstance(width, str) else " " * width
    lines = _text(value).splitlines(keepends=True)
    indented = [prefix + line if (blank or line.strip()) and (first or i) else line for i, line in enumerate(lines)]
    return "".join(indented)


def _on_plain(marks: Marks, filter_: Callable[..., Any]) -> Callable[..., Any]:
    def on_plain(value: Any) -> Any:
        return filter_(marks.plain(value) if isinstance(value, str) else value)

    return on_plain


def _json_value(value: object) -> object:
    if isinstance(value, JsonText):
        try:
            return json.loads(value)
        except ValueError:
            return str(value)
    if isinstance(value, Mapping):
        return {key: _json_value(entry) for key, entry in value.items()}
    return [_json_value(entry) for entry in value] if isinstance(value, list | tuple) else value


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> None:
    raise ConversationRefused(_text(message))


def strftime_at(now: datetime) -> Callable[[str], str]:
    """The template's strftime_now, at one instant for the whole rendering."""

    def strftime_now(format: str) -> str:
        if len(format) > 64:
            raise BudgetExceeded("a date format is longer than 64 characters")
        return now.strftime(format)

    return strftime_now
