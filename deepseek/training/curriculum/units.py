"""Unit conversion. Units are called by the symbols of `UNITS`, whatever the user calls them."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.arithmetic import plain
from deepseek.training.curriculum.phrasing import Ask, compose
from deepseek.training.curriculum.sample import Language

# symbol: (size in the base unit of its dimension, English names after a number, Chinese names)
UNITS: dict[str, dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "length": {
        "km": ("1000", ("kilometers", "kilometres", "km"), ("公里", "千米", "km")),
        "m": ("1", ("meters", "metres", "m"), ("米", "m")),
        "cm": ("0.01", ("centimeters", "centimetres", "cm"), ("厘米", "公分", "cm")),
        "mm": ("0.001", ("millimeters", "mm"), ("毫米", "mm")),
        "mi": ("1609.344", ("miles", "mi"), ("英里",)),
        "ft": ("0.3048", ("feet", "ft"), ("英尺",)),
        "in": ("0.0254", ("inches",), ("英寸",)),
        "yd": ("0.9144", ("yards", "yd"), ("码",)),
    },
    "mass": {
        "kg": ("1", ("kilograms", "kilos", "kg"), ("公斤", "千克", "kg")),
        "g": ("0.001", ("grams", "g"), ("克", "g")),
        "lb": ("0.45359237", ("pounds", "lb"), ("磅", "lb")),
        "oz": ("0.028349523125", ("ounces", "oz"), ("盎司",)),
        "t": ("1000", ("tonnes", "metric tons"), ("吨",)),
    },
    "volume": {
        "L": ("1", ("liters", "litres", "L"), ("升", "L")),
        "mL": ("0.001", ("milliliters", "mL"), ("毫升", "mL")),
        "gal": ("3.785411784", ("gallons", "gal"), ("加仑",)),
    },
    "speed": {
        "km/h": ("1", ("kilometers per hour", "km/h"), ("公里每小时", "千米每小时", "km/h")),
        "mph": ("1.609344", ("miles per hour", "mph"), ("英里每小时", "mph")),
        "m/s": ("3.6", ("meters per second", "m/s"), ("米每秒", "m/s")),
    },
    "time": {
        "h": ("3600", ("hours", "h"), ("小时",)),
        "min": ("60", ("minutes", "min"), ("分钟",)),
        "s": ("1", ("seconds", "s"), ("秒",)),
        "day": ("86400", ("days",), ("天",)),
        "week": ("604800", ("weeks",), ("周", "星期")),
    },
    "data": {
        "KB": ("1", ("kilobytes", "KB"), ("千字节", "KB")),
        "MB": ("1000", ("megabytes", "MB"), ("兆字节", "MB")),
        "GB": ("1000000", ("gigabytes", "GB"), ("吉字节", "GB")),
        "TB": ("1000000000", ("terabytes", "TB"), ("太字节", "TB")),
    },
    "temperature": {
        "C": ("1", ("degrees Celsius", "Celsius", "°C"), ("摄氏度", "°C")),
        "F": ("1", ("degrees Fahrenheit", "Fahrenheit", "°F"), ("华氏度", "°F")),
        "K": ("1", ("kelvin", "K"), ("开尔文", "K")),
    },
}
EN = (
    "Convert {v} {f} to {t}.", "How many {t} are in {v} {f}?", "What is {v} {f} in {t}?", "{v} {f} to {t}", "How much is {v} {f} in {t}?",
    "Change {v} {f} into {t}", "{v} {f} in {t}", "Express {v} {f} in {t}.", "I need {v} {f} in {t}.", "Can you turn {v} {f} into {t}?",
    "{v} {f} is how many {t}?", "Please convert {v} {f} into {t}.", "Give me {v} {f} as {t}.", "What would {v} {f} be in {t}?",
    "How many {t} make {v} {f}?", "Tell me what {v} {f} is in {t}.", "I have {v} {f}. How many {t} is that?", "In {t}, how much is {v} {f}?",
    "{v} {f} = ? {t}", "Could you convert {v} {f} to {t} for me?", "The label says {v} {f}; what is that in {t}?", "Translate {v} {f} into {t}.",
    "Work out {v} {f} in {t}", "What's {v} {f} in {t}?", "My recipe says {v} {f}, but I think in {t}.", "Do a unit conversion: {v} {f} to {t}",
    "To {t}: {v} {f}", "Show {v} {f} in {t}.", "I want to know how many {t} there are in {v} {f}.", "Use {t} instead of {f} for {v} {f}.",
    "Convert from {f} to {t}: {v}", "Convert {v} from {f} to {t}.", "If something measures {v} {f}, what is it in {t}?", "Rewrite {v} {f} as {t}",
    "The answer should be in {t}: {v} {f}", "How do I write {v} {f} in {t}?", "{v} {f} equals how many {t}?", "Switch {v} {f} to {t}, please",
    "Compute {v} {f} in {t}", "Does anyone know {v} {f} in {t}?", "From {f} to {t}, please: {v}.", "Let me have {v} {f} in {t}.",
)  # fmt: skip
ZH = (
    "{v}{f}等于多少{t}？", "把{v}{f}换算成{t}", "{v}{f}是多少{t}", "{v}{f}换算成{t}", "将{v}{f}转换为{t}。", "请把{v}{f}转成{t}", "{v}{f}合多少{t}？", "{v}{f}有多少{t}？",
    "帮我换算一下，{v}{f}是几{t}？", "{v}{f}用{t}表示是多少？", "{v}{f}等于几{t}", "我有{v}{f}，是多少{t}？", "换算：{v}{f}到{t}", "请问{v}{f}相当于多少{t}", "多少{t}等于{v}{f}？",
    "{v}{f}转{t}", "想知道{v}{f}是多少{t}", "{v}{f}折合多少{t}？", "把{v}{f}改写成{t}", "{v}{f}变成{t}是多少", "以{t}为单位，{v}{f}是多少？", "标签上写着{v}{f}，也就是多少{t}？",
    "单位换算：{v}{f}换{t}", "请算出{v}{f}对应的{t}数", "给我{v}{f}的{t}数值", "{v}{f}=?{t}", "能把{v}{f}换成{t}吗？", "{v}{f}大概是多少{t}", "从{f}到{t}：{v}", "将{v}从{f}换算到{t}",
    "我只懂{t}，{v}{f}是多少？", "麻烦把{v}{f}换成{t}", "{v}{f}写成{t}是多少？", "菜谱要{v}{f}，用{t}是多少？", "{v}{f}转化成{t}是多少", "查一下{v}{f}等于多少{t}",
    "要用{t}来表示{v}{f}", "请告诉我{v}{f}是多少{t}。", "{v}{f}，换成{t}呢？", "多少{t}才是{v}{f}？", "帮忙转换{v}{f}为{t}", "{v}{f}用{t}怎么说？",
)  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool) -> Ask:
    """A value in one unit, wanted in another of the same dimension."""
    dimension = rng.choice(tuple(UNITS))
    table = UNITS[dimension]
    source, target = rng.sample(tuple(table), 2)
    value = words.number(rng, 3 if dimension == "temperature" else 5, 0.35)
    if dimension == "temperature" and rng.random() < 0.15:
        value = "-" + value
    names = 1 if language == "en" else 2
    slots = {
        "v": words.grouped(rng, value),
        "f": str(rng.choice(table[source][names])),
        "t": str(rng.choice(table[target][names])),
    }
    text, phrasing = compose(rng, language, "units", EN if language == "en" else ZH, withheld, **slots)
    result = plain(converted(dimension, Decimal(value), source, target))
    arguments = {"value": float(value) if "." in value else int(value), "from": source, "to": target}
    answer = f"{value} {source} = {result} {target}"
    return Ask(text, phrasing, "convert", arguments, result, answer, result)


def converted(dimension: str, value: Decimal, source: str, target: str) -> Decimal:
    if dimension == "temperature":
        celsius = {"C": value, "F": (value - 32) * 5 / 9, "K": value - Decimal("273.15")}[source]
        return {"C": celsius, "F": celsius * 9 / 5 + 32, "K": celsius + Decimal("273.15")}[target]
    table = UNITS[dimension]
    return value * Decimal(table[source][0]) / Decimal(table[target][0])
