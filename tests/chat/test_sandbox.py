"""A template is a stranger's program: it cannot reach Python, run for long or fill the memory."""

from __future__ import annotations

import resource
import time

import pytest

from deepseek.chat.template import ChatTemplate
from deepseek.core.errors import TokenizerError
from deepseek.core.messages import Message, TextPart

MESSAGES = [Message("user", (TextPart("hello"),))]

DOUBLING = "{% set ns = namespace(s='a') %}{% for i in range(60) %}"
HOSTILE = {
    "endless loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "empty nested loops over text": "{% set x = 'a' * 9999 %}{% for i in x %}{% for j in x %}{% endfor %}{% endfor %}",
    "a huge range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "sums in a loop": "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "text doubled by +": DOUBLING + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "text doubled by ~": DOUBLING + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "text doubled by a block": DOUBLING + "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
    "text doubled by a macro": DOUBLING
    + "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}{% set ns.s = m(ns.s) %}{% endfor %}",
    "text doubled by join": DOUBLING + "{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
    "text doubled by str.join": DOUBLING + "{% set ns.s = ''.join([ns.s, ns.s]) %}{% endfor %}",
    "text doubled by replace": DOUBLING + "{% set ns.s = ns.s.replace('a', 'aa') %}{% endfor %}",
    "text doubled by a filter": DOUBLING + "{% set ns.s = ns.s | replace('a', 'aa') %}{% endfor %}",
    "a list doubled": DOUBLING + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "a list doubled and serialised": DOUBLING + "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
    "a dictionary doubled": DOUBLING + "{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor %}{{ ns.s }}",
    "a namespace doubled": DOUBLING + "{% set ns.s = namespace(a=ns.s, b=ns.s) %}{% endfor %}{{ ns.s }}",
    "a namespace in a format": "{% set n = namespace(a=1) %}{{ '%s' % n }}",
    "an integer squared": "{% set n = namespace(n=3) %}{% for i in range(60) %}{% set n.n = n.n * n.n %}{% endfor %}",
    "a power": "{{ 9 ** 99999 }}",
    "a repetition": "{{ 'a' * 10 ** 9 }}",
    "a repetition of a list": "{{ [1] * 10 ** 9 }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a starred format": "{{ '%*d' % (1000000000, 1) }}",
    "a wide str.format": "{{ '{:1000000000}'.format(1) }}",
    "a wide centre": "{{ 'a' | center(10 ** 9) }}",
    "a wide ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "a wide indent": "{{ 'a\nb' | indent(10 ** 9) }}",
    "a wide json indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "a long date": "{{ strftime_now('%c' * 1000) }}",
    "recursion of a macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursion of a loop": "{% set x = [1] %}{% for i in x recursive %}{{ loop(x) }}{% endfor %}",
    "deep nesting in the source": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep list in the source": "{{ " + "[" * 5_000 + "]" * 5_000 + " }}",
    "a huge source": "a" * (1 << 21),
    "fixed text in loops": "{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}",
    "fixed text in a block in loops": "{% set x %}{% for i in range(99999) %}"
    + "a" * 100_000
    + "{% endfor %}{% endset %}",
    "fixed text in a macro in loops": "{% macro m() %}" + "a" * 100_000 + "{% endmacro %}"
    "{% set x %}{% for i in range(99999) %}{{ m() }}{% endfor %}{% endset %}",
    "large text printed in loops": "{% set x = 'a' * 9999 %}{% set y %}{% for i in range(99999) %}{{ x }}"
    "{% endfor %}{% endset %}",
    "comparisons of shared lists": "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}"
    "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    "Python's internals": "{{ ''.__class__.__mro__ }}",
    "Python's internals by filter": "{{ '' | attr('__class__') }}",
    "Python's internals by subscript": "{{ ''['__class__']['__mro__'] }}",
    "Python's internals by a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__.x }}",
    "Python's internals by a function": "{{ raise_exception.__globals__.x }}",
    "Python's internals by format": "{{ '{0.__class__}'.format(1) }}",
    "an underscored name": "{% set n = namespace(__html__=1) %}",
    "bytes": "{{ 'a'.encode() }}",
    "a changed message": "{{ messages.append(1) }}",
    "a changed dictionary": "{{ messages[0].update(role='system') }}",
    "another file": "{% include 'x' %}",
    "a lone surrogate": "{{ '\\ud800' }}",
    "a made character": "{{ '%c' % 55296 }}",
    "a made wide character": "{{ '%-5c' % 55296 }}",
    "a syntax error": "{% if %}",
    "an unknown name": "{{ nowhere.at.all }}",
    "a division by zero": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_template_is_refused_within_seconds(attack: str) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with pytest.raises(TokenizerError, match=r"chat template.*Fix:"):
        ChatTemplate(HOSTILE[attack], {}, ("<｜User｜>",)).render(MESSAGES)
    assert time.process_time() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 600 * 1024


def test_the_line_of_a_syntax_error_is_named() -> None:
    with pytest.raises(TokenizerError, match="line 2"):
        ChatTemplate("a\n{% if %}", {}, ())


def test_a_long_conversation_stays_within_the_budget() -> None:
    body = "{% if '</think>' in m.content %}x{% endif %}{{ m.role + ': ' + m.content }}"
    source = "{% for m in messages %}" + body + "{% endfor %}"
    long = [Message("user", (TextPart("word " * 2000),))] * 1000
    assert len(ChatTemplate(source, {}, ()).render(long)) > 10_000_000


USEFUL = {
    "loop controls": ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
    "the training block": ("{% generation %}a{% endgeneration %}b", "ab"),
    "white space control": ("{% if true %}\n  {% set x = 1 %}\na\n{% endif %}", "a\n"),
    "json as it is": ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
    "json in ASCII": ("{{ 'é' | tojson(ensure_ascii=True) }}", '"\\u00e9"'),
    "indented json": ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
    "safe": ("{{ '<a>' | safe }}", "<a>"),
    "no tools": ("{{ tools is none }}", "True"),
    "defaults": ("{{ nothing | default('d') }}{{ nothing is defined }}", "dFalse"),
    "macros": ("{% macro m(a, b='y') %}{{ a ~ b }}{% endmacro %}{{ m('x') }}", "xy"),
    "the last message": ("{{ messages[-1].content }}{{ messages | length }}", "hello1"),
    "selection": ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
    "mapping": ("{{ messages | map(attribute='content') | join(',') }}", "hello"),
    "sorted pairs": ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}", "a2b1"),
    "items": ("{% for k, v in {'b': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "b1"),
    "indent": ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
    "arithmetic": ("{{ 7 // 2 + 7 % 4 }}{{ '%s-%d' % ('a', 3) }}", "6a-3"),
}


@pytest.mark.parametrize("feature", USEFUL)
def test_what_templates_use_works(feature: str) -> None:
    source, expected = USEFUL[feature]
    assert ChatTemplate(source, {}, ()).render(MESSAGES) == expected


def test_the_date_can_be_asked_for() -> None:
    rendered = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", {}, ()).render(MESSAGES)
    assert time.strptime(rendered, "%Y-%m-%d").tm_year >= 2024
