"""Arithmetic: the expression is copied with ``+ - * / **`` and single spaces; the calculator does the sum."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.phrasing import Ask, compose
from deepseek.training.curriculum.sample import Language

EN_ANY = (
    "What is {e}?", "Calculate {e}.", "Compute {e}", "How much is {e}?", "{e}", "{e} = ?", "Can you work out {e} for me?",
    "Please evaluate {e}.", "I need the result of {e}.", "What does {e} come to?", "Solve {e}.", "Could you tell me what {e} is?",
    "Find the value of {e}", "{e} equals what?", "Give me the answer to {e}.", "Help me calculate {e}, please.",
    "I can't do {e} in my head.", "My homework says {e}. What is the answer?", "Do the math: {e}", "What's {e}?",
    "Use the tool to compute {e}.", "Tell me {e}.", "I would like to know how much {e} makes.", "Run {e} through a calculator.",
    "Check this for me: {e}", "Any idea what {e} is?", "evaluate: {e}", "Figure out {e}.", "Could you quickly do {e}?", "The sum is {e}. Go.",
)  # fmt: skip
EN_BY_SIGN = {
    "+": (
        "Add {a} and {b}.", "What is the sum of {a} and {b}?", "{a} plus {b}", "Add up {a} and {b} for me", "How much do {a} and {b} make together?",
        "I have {a} and get {b} more. How many is that?", "Increase {a} by {b}.", "How much is {a} and {b} added up?",
    ),
    "-": (
        "{a} minus {b}", "Take {a} and subtract {b}.", "What is left of {a} after taking away {b}?", "What is the difference between {a} and {b}?",
        "Reduce {a} by {b}.", "I had {a} and spent {b}. How much is left?", "How much is {a} less {b}?", "If I start with {a} and lose {b}, what remains?",
    ),
    "*": (
        "Multiply {a} by {b}.", "What is the product of {a} and {b}?", "{a} times {b}", "How much is {a} multiplied by {b}?",
        "I buy {a} boxes of {b} pieces. How many pieces?", "{a} rows with {b} seats each: how many seats?", "Multiply {a} and {b} for me",
        "What do {a} items at {b} each cost?",
    ),
    "/": (
        "Divide {a} by {b}.", "{a} divided by {b}", "Split {a} equally among {b} people. How much each?", "What is the quotient of {a} and {b}?",
        "How many does each get if {a} are shared by {b}?", "What is {a} over {b}?", "Share {a} between {b}.", "How much is {a} divided by {b}?",
    ),
    "**": (
        "{a} to the power of {b}", "What is {a} to the power {b}?", "Raise {a} to the power of {b}.", "Compute {a} to the power of {b}", "Take {a} to the {b}th power.",
        "How much is {a} raised to {b}?",
    ),
}  # fmt: skip
ZH_ANY = (
    "{e}等于多少？", "计算{e}", "算一下{e}", "请计算{e}。", "{e}", "{e}=?", "帮我算算{e}是多少", "{e}是多少？", "我想知道{e}的结果。", "求{e}的值",
    "麻烦算一下{e}", "{e}的答案是什么？", "能告诉我{e}等于几吗？", "请帮我计算一下{e}", "{e}得多少", "用工具算{e}。", "作业题：{e}，答案是多少？", "口算不出{e}，帮帮我",
    "请问{e}等于几", "快帮我算：{e}", "给我{e}的结果", "检查一下{e}是多少", "你会算{e}吗？", "{e}一共是多少", "列式是{e}，请求出结果。", "算式：{e}", "把{e}算出来",
    "我要{e}的计算结果", "请用计算器算{e}", "劳驾，{e}是几？",
)  # fmt: skip
ZH_BY_SIGN = {
    "+": (
        "{a}加{b}等于多少？", "{a}加上{b}是多少", "求{a}与{b}的和", "把{a}和{b}加起来", "{a}和{b}一共是多少？", "我有{a}个，又得到{b}个，总共几个？", "{a}再加{b}",
        "请计算{a}与{b}之和",
    ),
    "-": (
        "{a}减{b}等于多少？", "{a}减去{b}是多少", "求{a}与{b}的差", "从{a}里拿走{b}还剩多少？", "{a}比{b}多多少？", "我有{a}元，花了{b}元，还剩多少？", "{a}少{b}是几",
        "请计算{a}减掉{b}",
    ),
    "*": (
        "{a}乘以{b}等于多少？", "{a}乘{b}是多少", "求{a}与{b}的积", "{a}的{b}倍是多少？", "每箱{a}个，{b}箱共多少个？", "{a}和{b}相乘", "单价{a}元，买{b}件，要多少钱？",
        "请计算{a}与{b}的乘积",
    ),
    "/": (
        "{a}除以{b}等于多少？", "{a}除以{b}", "求{a}与{b}的商", "把{a}平均分成{b}份，每份多少？", "{a}个分给{b}个人，每人多少？", "{a}里有几个{b}？", "{a}被{b}除是多少",
        "请计算{a}除以{b}",
    ),
    "**": ("{a}的{b}次方是多少？", "{a}的{b}次方", "求{a}的{b}次幂", "计算{a}的{b}次方", "{a}的{b}次方等于几？", "请算{a}的{b}次幂"),
}  # fmt: skip
SPOKEN = {
    "en": {"+": " plus ", "-": " minus ", "*": " times ", "/": " divided by ", "**": " to the power of "},
    "zh": {"+": "加", "-": "减", "*": "乘以", "/": "除以"},
}


def ask(rng: Random, language: Language, withheld: bool) -> Ask:
    """Two operands in words or signs, or three in signs, with or without parentheses."""
    shape = rng.random()
    if shape < 0.55:
        sign, a, b = _operands(rng)
        table = EN_BY_SIGN if language == "en" else ZH_BY_SIGN
        shown_a, shown_b = words.grouped(rng, a), words.grouped(rng, b)
        text, phrasing = compose(rng, language, f"arithmetic/{sign}", table[sign], withheld, a=shown_a, b=shown_b)
        expression, value = f"{a} {sign} {b}", apply(sign, Decimal(a), Decimal(b))
    else:
        if shape < 0.8:
            sign, a, b = _operands(rng)
            expression, value = f"{a} {sign} {b}", apply(sign, Decimal(a), Decimal(b))
            spoken = SPOKEN[language].get(sign) if rng.random() < 0.4 else None
            written = f"{a}{spoken}{b}" if spoken else in_signs(rng, expression)
        else:
            expression, value = three(rng)
            written = in_signs(rng, expression)
        any_sign = EN_ANY if language == "en" else ZH_ANY
        text, phrasing = compose(rng, language, "arithmetic/any", any_sign, withheld, e=written)
    result = plain(value, rng.choice((2, 4, 4, 10)))
    return Ask(text, phrasing, "calculate", {"expression": expression}, result, f"{expression} = {result}", result)


def _operands(rng: Random) -> tuple[str, str, str]:
    sign = rng.choices(("+", "-", "*", "/", "**"), (3, 3, 3, 3, 1))[0]
    if sign == "**":
        return sign, words.integer(rng, 2), str(rng.randint(2, 9))
    return sign, words.number(rng), words.number(rng)


def three(rng: Random) -> tuple[str, Decimal]:
    """A three-operand expression and its value; one that divides by zero is drawn again."""
    a, b, c = (words.number(rng, 4, 0.1) for _ in range(3))
    first, second = rng.choice("+-*/"), rng.choice("+-*/")
    x, y, z = Decimal(a), Decimal(b), Decimal(c)
    drawn = rng.random()
    if drawn < 0.3:
        return f"({a} {first} {b}) {second} {c}", apply(second, apply(first, x, y), z)
    right = apply(second, y, z)
    if drawn < 0.5:
        if first == "/" and not right:
            return three(rng)
        return f"{a} {first} ({b} {second} {c})", apply(first, x, right)
    binds_right = second in "*/" and first in "+-"
    value = apply(first, x, right) if binds_right else apply(second, apply(first, x, y), z)
    return f"{a} {first} {b} {second} {c}", value


def in_signs(rng: Random, expression: str) -> str:
    """As people type it: with or without spaces, ``×`` or ``x`` for ``*``, ``÷`` for ``/``, ``^`` for ``**``."""
    times, over, power = rng.choice(("*", "*", "×", "x")), rng.choice(("/", "/", "÷")), rng.choice(("**", "^"))
    written = " ".join({"*": times, "/": over, "**": power}.get(part, part) for part in expression.split(" "))
    return written if rng.random() < 0.5 else written.replace(" ", "")


def apply(sign: str, x: Decimal, y: Decimal) -> Decimal:
    """``x sign y``.

    Raises:
        decimal.DivisionByZero: `y` is zero and `sign` divides.
    """
    if sign == "/":
        return x / y
    if sign == "**":
        return x ** int(y)
    return x + y if sign == "+" else x - y if sign == "-" else x * y


def plain(value: Decimal, places: int = 4) -> str:
    """`value` with at most `places` decimals, no trailing zeros, no exponent, no minus before zero."""
    text = format(round(value, places) + 0, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
