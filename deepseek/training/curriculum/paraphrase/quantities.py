"""Unit conversion, as everybody asks. Units have more names here than in the basic family; the call uses the same symbols."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from random import Random

from deepseek.training.curriculum import units, words
from deepseek.training.curriculum.arithmetic import plain
from deepseek.training.curriculum.paraphrase import numbers
from deepseek.training.curriculum.paraphrase.frames import Ways, framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, full_width, normal, say
from deepseek.training.curriculum.phrasing import Ask, is_withheld
from deepseek.training.curriculum.sample import Language

EN: Ways = {
    "what": ("{v} {f} in {t}", "{v} {f} in {t}", "{v} {f} [to|into|as] {t}", "{v} {f} [expressed|measured|given|written] in {t}", "the [number|amount] of {t} in {v} {f}", "{v} {f} [converted|changed|translated|turned] [to|into] {t}"),
    "do": ("convert {v} {f} [to|into|in] {t}", "convert {v} {f} [to|into] {t}", "change {v} {f} [to|into] {t}", "turn {v} {f} into {t}", "express {v} {f} in {t}", "switch {v} {f} to {t}", "translate {v} {f} [to|into] {t}", "give {v} {f} in {t}", "show {v} {f} [in|as] {t}", "transform {v} {f} into {t}", "write {v} {f} [in|as] {t}", "put {v} {f} [in|into] {t}", "convert [from |]{f} to {t}: {v}", "do a conversion of {v} {f} to {t}"),
    "tell": (
        "How many {t} [are there in|are in|in|make up|make|is|are|equal|does|do|fit in|go into] {v} {f}?", "How [much|many] {t} [is|are|in] {v} {f}?", "{v} {f} [is|are|equals|makes] how many {t}?", "{v} {f} [is|are|equals|comes to] what in {t}?", "[What is|What's|How much is] {v} {f} in {t}?", "{v} {f} to {t}", "{v} {f} in {t}?", "{v} {f} -> {t}", "{v} {f} = ? {t}",
        "[It is|It's|There are|We have|I have|I've got|That's] {v} {f}[. |, ][how many {t} is that|what is that in {t}|how much is that in {t}|in {t}|in {t} please]?", "[The recipe|The manual|The label|The sign|My doctor|The package|The website] [says|shows|wants|needs|gives] {v} {f}[. |, ][what is that in {t}|how many {t} is that|I need {t}|how much in {t}]?",
        "I [only know|only understand|am used to|think in|grew up with] {t}[. |, ][what|how much] is {v} {f}?", "[I want|I need|I'd like] {v} {f} [in|as|converted to] {t}.", "[I ran|I walked|The road is|The box weighs|It takes|The bottle holds|The file has|The oven is at] {v} {f}[. |, ][how many {t} is that|in {t}|convert to {t}|what's that in {t}]?", "From {f} to {t}: {v}", "[in|how many] {t}, [how much is|] {v} {f}?", "If [something|it] [is|weighs|measures|takes] {v} {f}, [what is it|how much is it|how many is that] in {t}?", "Units: {v} {f} to {t}", "Is {v} {f} a lot in {t}? Convert it.", "[Can|Could] you [tell me|say] how many {t} [there are in|are in|make|is|are] {v} {f}?", "[do you know|any idea|tell me|please tell me|I wonder] how many {t} {v} {f} [is|are|make|makes]?", "I need to know how many {t} {v} {f} [is|are].", "How [far|long|heavy|big|fast|hot|much] is {v} {f} in {t}?", "What [would|will] {v} {f} be in {t}?", "What does {v} {f} [equal|come to|make|correspond to] in {t}?",
    ),
}  # fmt: skip
ZH: Ways = {
    "what": ("{v}{f}换[算|]成{t}", "{v}{f}[转换|转|化|折算|折合]成{t}", "{v}{f}对应的{t}[数|]", "{v}{f}用{t}表示", "{v}{f}以{t}为单位"),
    "do": ("把{v}{f}[换算|转换|转|换|变|改|化|折算]成{t}", "将{v}{f}[换算|转换|转|换|折算][成|为]{t}", "换算{v}{f}[为|成|到]{t}", "[换算|转换][一下|][：|，]{v}{f}[到|成|换|转]{t}", "用{t}[表示|表达|说]{v}{f}", "把{v}{f}写成{t}", "[算|看看|查]{v}{f}[是|等于|有]多少{t}", "将{v}从{f}换[算|]成{t}", "{v}{f}[转|换|换算成|转成|变成]{t}"),
    "tell": (
        "{v}{f}[等于|是|合|有|相当于|约等于|折合|换算成|换成|转成]多少{t}[？|呢？|啊？|呀？|]", "{v}{f}[是|等于|有|合][几|几个|多少个]{t}？", "多少{t}[等于|是|才是|才够]{v}{f}？", "{v}{f}=[？|多少|?]{t}", "{v}{f}[到|换|转|转换|->]{t}", "{t}[里|][，|]{v}{f}是多少？", "[我有|这里有|它有|一共|路程|重量是|这箱重|容量是|还剩|走了|跑了]{v}{f}[，|。][是多少{t}|换成{t}是多少|等于多少{t}|用{t}表示呢|换算成{t}]？",
        "[菜谱|说明书|标签|路牌|包装|医生][上|][写着|说|写|要|标着]{v}{f}[，|。][是多少{t}|换成{t}呢|等于多少{t}|也就是多少{t}]？", "我[只懂|习惯用|只会看|想用]{t}[，|。]{v}{f}[是多少|等于多少]？", "从{f}[换算|换|转][到|成]{t}[：|，]{v}", "{v}{f}[大概|大约|差不多|究竟|到底][是|有|等于]多少{t}？", "[我想知道|告诉我|请告诉我|你知道|谁知道|想问下|帮我看看]{v}{f}[是|等于|有]多少{t}[吗|]？", "{v}{f}[那就是|也就是|就是|那是]多少{t}？", "要是{v}{f}，[那|]是多少{t}？", "{v}{f}，{t}[是|]多少？",
    ),
}  # fmt: skip
# Further names a unit goes by, beside those of `units.UNITS`.
_EN_MORE: dict[str, tuple[str, ...]] = {
    "km": ("kilometer", "kilometre", "kms", "KM"), "m": ("meter", "metre"), "cm": ("centimeter", "centimetre", "cms"), "mm": ("millimeter", "millimetres"), "mi": ("mile", "miles"), "ft": ("foot", "feet", "ft"), "in": ("inch", "in"), "yd": ("yard",),
    "kg": ("kilogram", "kilo", "kgs", "kilogrammes", "KG"), "g": ("gram", "grammes"), "lb": ("pound", "lbs"), "oz": ("ounce", "oz"), "t": ("tons", "ton", "tonne", "t"), "L": ("liter", "litre", "l"), "mL": ("milliliter", "millilitres", "ml"), "gal": ("gallon", "gal"),
    "km/h": ("kph", "kmh", "kilometres per hour", "km per hour"), "mph": ("mi/h", "miles an hour"), "m/s": ("metres per second", "mps"), "h": ("hour", "hrs", "hr"), "min": ("minute", "mins", "min"), "s": ("second", "secs", "sec"), "day": ("day",), "week": ("week", "wks"),
    "KB": ("kilobyte", "kb"), "MB": ("megabyte", "megs", "mb"), "GB": ("gigabyte", "gigs", "gb"), "TB": ("terabyte", "tb"), "C": ("celsius", "C", "degrees C", "centigrade", "degrees celsius", "deg C"), "F": ("fahrenheit", "F", "degrees F", "degrees fahrenheit", "deg F"), "K": ("K", "kelvins", "Kelvin"),
}  # fmt: skip
_ZH_MORE: dict[str, tuple[str, ...]] = {
    "km": ("KM", "公里"), "m": ("公尺",), "cm": ("CM", "厘米"), "mi": ("英里", "mile", "哩"), "ft": ("英尺", "呎", "英尺"), "in": ("英寸", "吋"), "kg": ("KG", "公斤"), "lb": ("磅",), "oz": ("盎司", "安士"), "t": ("吨", "公吨"), "L": ("公升", "升"), "mL": ("ml", "毫升"),
    "km/h": ("公里/小时", "千米/小时", "公里/时", "km/h"), "mph": ("英里/小时", "迈"), "m/s": ("米/秒",), "h": ("个小时", "钟头", "h"), "min": ("分", "min", "分钟"), "s": ("秒钟", "s"), "day": ("日", "天"), "week": ("个星期", "个礼拜", "周"), "KB": ("K", "kb"), "MB": ("兆", "mb"), "GB": ("G", "gb"), "TB": ("T", "tb"), "C": ("摄氏", "摄氏度", "℃"), "F": ("华氏", "华氏度", "℉"), "K": ("K", "开"),
}  # fmt: skip
# Units that the basic family does not have: size in the base unit, English names, Chinese names.
_MORE_UNITS: dict[str, dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "length": {"dm": ("0.1", ("decimeters", "dm"), ("分米",)), "nmi": ("1852", ("nautical miles",), ("海里",)), "li": ("500", ("li",), ("里", "华里"))},
    "mass": {"mg": ("0.000001", ("milligrams", "mg"), ("毫克", "mg")), "st": ("6.35029318", ("stone",), ("英石",)), "jin": ("0.5", ("jin",), ("斤", "市斤")), "liang": ("0.05", ("liang",), ("两",))},
    "volume": {
        "cup": ("0.2365882365", ("cups", "cup"), ("杯",)), "tbsp": ("0.01478676478125", ("tablespoons", "tbsp"), ("汤匙",)), "tsp": ("0.00492892159375", ("teaspoons", "tsp"), ("茶匙",)), "floz": ("0.0295735295625", ("fluid ounces", "fl oz"), ("液量盎司",)),
        "pt": ("0.473176473", ("pints", "pint"), ("品脱",)), "qt": ("0.946352946", ("quarts", "quart"), ("夸脱",)), "m3": ("1000", ("cubic meters", "m³"), ("立方米",)),
    },
    "speed": {"kn": ("1.852", ("knots", "kn"), ("节",)), "ft/s": ("1.09728", ("feet per second", "ft/s"), ("英尺每秒",))},
    "time": {"ms": ("0.001", ("milliseconds", "ms"), ("毫秒",)), "year": ("31557600", ("years", "year"), ("年",))},
    "data": {"PB": ("1000000000000", ("petabytes", "PB"), ("拍字节", "PB")), "B": ("0.001", ("bytes",), ("字节",)), "MiB": ("1048.576", ("mebibytes", "MiB"), ("MiB",)), "GiB": ("1073741.824", ("gibibytes", "GiB"), ("GiB",))},
    "temperature": {},
    "area": {
        "m2": ("1", ("square meters", "square metres", "m²", "sqm"), ("平方米", "平米")), "km2": ("1000000", ("square kilometers", "km²"), ("平方公里", "平方千米")), "ha": ("10000", ("hectares", "ha"), ("公顷",)),
        "acre": ("4046.8564224", ("acres", "acre"), ("英亩",)), "sqft": ("0.09290304", ("square feet", "sq ft", "sqft"), ("平方英尺",)),
    },
    "energy": {"J": ("1", ("joules", "J"), ("焦耳", "焦")), "kJ": ("1000", ("kilojoules", "kJ"), ("千焦",)), "cal": ("4.184", ("calories", "cal"), ("卡路里", "卡")), "kcal": ("4184", ("kilocalories", "kcal"), ("千卡", "大卡")), "kWh": ("3600000", ("kilowatt hours", "kWh"), ("千瓦时",))},
    "power": {"W": ("1", ("watts", "W"), ("瓦", "瓦特")), "kW": ("1000", ("kilowatts", "kW"), ("千瓦",)), "hp": ("745.69987158227022", ("horsepower", "hp"), ("马力",))},
    "pressure": {"Pa": ("1", ("pascals", "Pa"), ("帕",)), "kPa": ("1000", ("kilopascals", "kPa"), ("千帕",)), "bar": ("100000", ("bar",), ("巴",)), "atm": ("101325", ("atmospheres", "atm"), ("大气压",)), "psi": ("6894.757293168361", ("psi",), ("psi",))},
}  # fmt: skip
UNITS = {name: {**units.UNITS.get(name, {}), **more} for name, more in _MORE_UNITS.items()}
_EVERYDAY = {name: tuple(table) for name, table in units.UNITS.items()}
AVOID = frozenset(normal(text) for group in (units.EN, units.ZH) for i, text in enumerate(group) if is_withheld(i))


def unit_name(rng: Random, language: Language, dimension: str, symbol: str) -> str:
    """One of the names that people use for a unit."""
    english = language == "en"
    known = UNITS[dimension][symbol][1 if english else 2]
    more = (_EN_MORE if english else _ZH_MORE).get(symbol, ())
    return str(rng.choice((*known, *more)))


def ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """A value in one unit, wanted in another of the same dimension."""
    drawn = draw(rng)
    slots = {"v": shown_value(rng, language, drawn[1]), "f": unit_name(rng, language, drawn[0], drawn[2]), "t": unit_name(rng, language, drawn[0], drawn[3])}  # fmt: skip
    template = say(rng, language, lambda: framed(rng, language, EN if language == "en" else ZH), AVOID, withheld)
    if "{v} {f}" in template and slots["v"][-1].isdigit() and rng.random() < 0.2:
        template = template.replace("{v} {f}", "{v}{f}")
    return conversion(dress_up(rng, language, template, bare, **slots), "wide/units", drawn)


Drawn = tuple[str, str, str, str]
"""Dimension, value, symbol of its unit, symbol of the unit wanted."""


def draw(rng: Random) -> Drawn:
    if rng.random() < 0.75:
        dimension = rng.choice((*units.UNITS, "length", "mass", "temperature"))
        source, target = rng.sample(_EVERYDAY[dimension], 2)
    else:
        dimension = rng.choice(tuple(UNITS))
        source, target = rng.sample(tuple(UNITS[dimension]), 2)
    if dimension == "temperature":
        value = str(rng.randint(1, 250)) if rng.random() < 0.7 else words.number(rng, 3, 0.4)
        return dimension, "-" + value if rng.random() < 0.12 else value, source, target
    return dimension, numbers.everyday(rng, 5, 0.35), source, target


def dimension_of(symbol: str) -> str:
    return next(name for name, table in UNITS.items() if symbol in table)


def converted(dimension: str, value: str, source: str, target: str) -> str:
    """As the tool writes it: 4 decimals at most, but of what is below 1 at least 4 digits."""
    if dimension == "temperature":
        scale = {
            "C": (Fraction(1), Fraction("273.15")),
            "F": (Fraction(5, 9), Fraction(45967, 180)),
            "K": (Fraction(1), Fraction(0)),
        }
        (size, zero), (wanted, wanted_zero) = scale[source], scale[target]
        exact = (Fraction(value) * size + zero - wanted_zero) / wanted
    else:
        size_of = {symbol: Fraction(UNITS[dimension][symbol][0]) for symbol in (source, target)}
        exact = Fraction(value) * size_of[source] / size_of[target]
    result = Decimal(exact.numerator) / Decimal(exact.denominator)
    places = max(4, 3 - result.adjusted()) if result and abs(result) < 1 else 4
    return plain(result, places)


def shown_value(rng: Random, language: Language, value: str) -> str:
    return numbers.spoken(rng, language, value) if not value.startswith("-") else full_width(rng, value, 0.02)


def conversion(text: str, phrasing: str, drawn: Drawn) -> Ask:
    """The call and the answer for what was drawn."""
    dimension, value, source, target = drawn
    result = converted(dimension, value, source, target)
    arguments = {"value": float(value) if "." in value else int(value), "from": source, "to": target}
    return Ask(text, phrasing, "convert", arguments, result, f"{value} {source} = {result} {target}", result)
