"""Conversion between units, exactly: each is a rational multiple of its dimension's base unit (SI Brochure, 9th edition;
NIST SP 811, appendix B), temperatures with an offset. Data units are decimal, and binary with an "i".

The symbols the built-in model writes come first; names in English and Chinese are understood too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from difflib import get_close_matches
from fractions import Fraction

from deepseek.agent.execution.errors import ToolRetry
from deepseek.agent.tools.numeric import Number, rounded

_DIGITS = Context(prec=60)


@dataclass(frozen=True, slots=True)
class Unit:
    """base = value * size + offset."""

    symbol: str
    dimension: str
    size: Fraction
    offset: Fraction = Fraction(0)


def convert(value: Number, from_: str, to: str) -> str:
    """Convert a value between units"""
    source, target = find(from_), find(to)
    if source.dimension != target.dimension:
        raise ToolRetry(f"cannot convert {source.dimension} ({source.symbol}) to {target.dimension} ({target.symbol})")
    exact = (Fraction(value) * source.size + source.offset - target.offset) / target.size
    return rounded(_DIGITS.divide(Decimal(exact.numerator), Decimal(exact.denominator)))


def find(name: str) -> Unit:
    """The unit of this symbol or name. Raises ToolRetry, with what may have been meant."""
    written = unicodedata.normalize("NFKC", name.strip().removeprefix("°"))
    unit = _BY_SYMBOL.get(written) or _BY_NAME.get(_folded(written))
    if unit is not None:
        return unit
    near = get_close_matches(_folded(written)[:40], _BY_NAME, n=3, cutoff=0.75)
    meant = f"perhaps {', '.join(dict.fromkeys(_BY_NAME[other].symbol for other in near))}" if near else None
    raise ToolRetry(f"unknown unit {name[:40]!r}", expected=meant)


def _folded(name: str) -> str:
    """Without case, and English plurals as singulars."""
    words = re.split(r"[\s_-]+", name.casefold().strip())
    return " ".join(word[:-1] if len(word) > 3 and word.isascii() and word.endswith("s") else word for word in words)


# dimension: symbol, size in the base unit, further symbols and names. English plurals with s are made.
_TABLE: dict[str, str] = {
    "length": """
        km 1000 kilometer kilometre 公里 千米
        m 1 meter metre 米
        dm 1/10 decimeter decimetre 分米
        cm 1/100 centimeter centimetre 厘米 公分
        mm 1/1000 millimeter millimetre 毫米
        um 1/1000000 μm micrometer micrometre micron 微米
        nm 1/1000000000 nanometer nanometre 纳米
        mi 1609.344 mile 英里
        yd 0.9144 yard 码
        ft 0.3048 foot feet 英尺
        in 0.0254 inch inches 英寸
        nmi 1852 nautical_mile 海里
        li 500 里 华里
        AU 149597870700 au astronomical_unit 天文单位
        ly 9460730472580800 light_year lightyear 光年""",
    "mass": """
        kg 1 kilogram kilo 公斤 千克
        g 1/1000 gram 克
        mg 1/1000000 milligram 毫克
        ug 1/1000000000 μg microgram 微克
        lb 0.45359237 lbs pound 磅
        oz 0.028349523125 ounce 盎司
        t 1000 tonne metric_ton ton 吨
        st 6.35029318 stone 英石
        jin 1/2 斤 市斤
        liang 1/20 两""",
    "volume": """
        L 1 l liter litre 升
        mL 1/1000 ml milliliter millilitre cc cm3 cm³ 毫升 立方厘米
        cL 1/100 cl centiliter centilitre
        dL 1/10 dl deciliter decilitre 分升
        m3 1000 m³ cubic_meter cubic_metre 立方米 方
        gal 3.785411784 gallon 加仑
        qt 0.946352946 quart 夸脱
        pt 0.473176473 pint 品脱
        cup 0.2365882365 cups 杯
        floz 0.0295735295625 fl_oz fluid_ounce 液量盎司
        tbsp 0.01478676478125 tablespoon 汤匙
        tsp 0.00492892159375 teaspoon 茶匙""",
    "speed": """
        km/h 1 kmh kph km_per_hour kilometer_per_hour kilometre_per_hour 公里每小时 千米每小时 公里/小时 千米/小时
        mph 1.609344 mi/h mile_per_hour 英里每小时 英里/小时
        m/s 3.6 mps meter_per_second metre_per_second 米每秒 米/秒
        ft/s 1.09728 fps foot_per_second feet_per_second 英尺每秒
        kn 1.852 knot kt 节""",
    "time": """
        s 1 sec second 秒
        min 60 minute 分钟 分
        h 3600 hr hrs hour 小时 时
        day 86400 d 天 日
        week 604800 wk 周 星期
        ms 1/1000 millisecond 毫秒
        us 1/1000000 μs microsecond 微秒
        ns 1/1000000000 nanosecond 纳秒
        year 31557600 yr a 年""",
    "data": """
        KB 1 kB kilobyte 千字节
        MB 1000 megabyte 兆字节 兆
        GB 1000000 gigabyte 吉字节
        TB 1000000000 terabyte 太字节
        PB 1000000000000 petabyte 拍字节
        B 1/1000 byte 字节
        bit 1/8000 bits 比特 位
        Kbit 1/8 kbit kilobit
        Mbit 125 megabit 兆比特
        Gbit 125000 gigabit
        KiB 1.024 kibibyte
        MiB 1048.576 mebibyte
        GiB 1073741.824 gibibyte
        TiB 1099511627.776 tebibyte""",
    "area": """
        m2 1 m² sqm square_meter square_metre 平方米 平米
        km2 1000000 km² square_kilometer square_kilometre 平方公里 平方千米
        cm2 1/10000 cm² square_centimeter square_centimetre 平方厘米
        ha 10000 hectare 公顷
        acre 4046.8564224 ac 英亩
        sqft 0.09290304 ft2 ft² sq_ft square_foot square_feet 平方英尺
        sqmi 2589988.110336 mi2 mi² square_mile 平方英里
        mu 2000/3 亩""",
    "energy": """
        J 1 joule 焦耳 焦
        kJ 1000 kilojoule 千焦
        cal 4.184 calorie 卡路里 卡
        kcal 4184 kilocalorie 千卡 大卡
        Wh 3600 watt_hour 瓦时
        kWh 3600000 kilowatt_hour 千瓦时 度""",
    "power": """
        W 1 watt 瓦 瓦特
        kW 1000 kilowatt 千瓦
        MW 1000000 megawatt 兆瓦
        hp 745.69987158227022 horsepower 马力""",
    "pressure": """
        Pa 1 pascal 帕
        kPa 1000 kilopascal 千帕
        bar 100000 巴
        atm 101325 atmosphere 大气压
        psi 6894.757293168361
        mmHg 133.322387415 毫米汞柱""",
    "angle": """
        deg 1 degree 度角
        rad 57.29577951308232087679815481410517 radian 弧度
        turn 360 revolution 圈""",
    "temperature": """
        K 1 kelvin 开尔文 开
        C 1+273.15 °C ℃ celsius degree_celsius centigrade 摄氏度 摄氏
        F 5/9+45967/180 °F ℉ fahrenheit degree_fahrenheit 华氏度 华氏""",
}


def _units() -> Iterator[tuple[Unit, tuple[str, ...]]]:
    for dimension, lines in _TABLE.items():
        for line in lines.strip().splitlines():
            symbol, size, *names = line.split()
            scale, _, offset = size.partition("+")
            yield Unit(symbol, dimension, Fraction(scale), Fraction(offset or 0)), tuple(names)


_BY_SYMBOL: dict[str, Unit] = {}
_BY_NAME: dict[str, Unit] = {}
for _unit, _names in _units():
    for _name in (_unit.symbol, *_names):
        _written = unicodedata.normalize("NFKC", _name.replace("_", " ").removeprefix("°"))
        _BY_SYMBOL.setdefault(_written, _unit)
        _BY_NAME.setdefault(_folded(_written), _unit)
