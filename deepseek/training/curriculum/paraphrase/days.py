"""Dates, as everybody asks: weeks and tomorrow, today's own date, more ways to write a day."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from deepseek.training.curriculum import dates
from deepseek.training.curriculum.paraphrase import numbers
from deepseek.training.curriculum.paraphrase.frames import Table, framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, normal, say
from deepseek.training.curriculum.phrasing import Ask, is_withheld
from deepseek.training.curriculum.sample import Language

EN: Table = {
    "after": {
        "what": ("the date {n} after {d}", "the [day|date] that is {n} after {d}", "{d} plus {n}", "{n} after {d}", "{n} from {d}", "{d} + {n}"),
        "do": ("add {n} to {d}", "go {n} forward from {d}", "count {n} [on |forward |]from {d}", "find the date {n} after {d}", "move {d} [forward|on|ahead] by {n}", "postpone {d} by {n}", "tell me the date {n} after {d}"),
        "tell": ("[What|Which] [date|day] [is|comes|will be|falls] {n} after {d}?", "[What's|What is] the date {n} [after|from|past] {d}?", "[When is|When will it be] {n} after {d}?", "[The|My] [contract|course|warranty|trial|visa|project] [starts|begins] [on|] {d} and [lasts|runs|takes] {n}. [When does it end|End date|When is it over]?", "I ordered [it|something] on {d}, [delivery|shipping] takes {n}. When [does it arrive|will it come|will it be here]?", "If it is {d} [now|today], what [is the date|date is it] in {n}?", "{n} after {d} is [what date|which day|when]?", "What date do I get if I add {n} to {d}?", "Starting [from|on] {d}, what is the date {n} later?", "The [deadline|due date] is {n} after {d}. When is [that|it]?"),
    },
    "before": {
        "what": ("the date {n} before {d}", "{d} minus {n}", "{n} before {d}", "{d} - {n}", "the [day|date] {n} [prior to|earlier than] {d}"),
        "do": ("subtract {n} from {d}", "go back {n} from {d}", "go {n} back from {d}", "count back {n} from {d}", "find the date {n} before {d}", "take {n} off {d}", "move {d} [back|backwards] by {n}", "count {n} backwards from {d}"),
        "tell": ("[What|Which] [date|day] [is|was|comes] {n} before {d}?", "[What's|What was|What is] the date {n} [before|prior to] {d}?", "[The|My] [exam|flight|wedding|meeting|deadline] is [on|] {d} and I [must|want to|need to|should] [start|be ready|book|finish] {n} [earlier|before]. [When is that|Which date]?", "When [is|was] {n} before {d}?", "{n} before {d} is [what date|which day|when]?", "[It happened|I moved|We met] {n} before {d}. [When was that|What date was it]?"),
    },
    "diff": {
        "what": ("the [number of days|days|time in days] [between|from] {d} [and|to] {e}", "the difference [in days |]between {d} and {e}", "the number of days from {d} [to|until|till] {e}", "days between {d} and {e}"),
        "do": ("count the days [between|from] {d} [and|to|until] {e}", "find the number of days between {d} and {e}", "calculate the [days|time|difference] between {d} and {e}", "compute how many days [there are |]from {d} to {e}", "tell me how many days [there are|lie|pass] between {d} and {e}"),
        "tell": ("How many days [are there |are |is it |lie |pass |]between {d} and {e}?", "How many days [are there |is it |pass |do I have |]from {d} [to|until|till] {e}?", "How long is it [in days |]from {d} [to|until|till] {e}?", "[I was|He was|We were|She stayed] [away|here|in hospital|on holiday|there] from {d} [to|until] {e}. How many days [is|was] that?", "[We arrive|I check in|It starts|It begins] [on|] {d} and [we leave|I check out|it ends|it finishes] [on|] {e}. How many days[ is that| is it|]?", "{d} [to|until|-] {e}[:|,] how many days?", "How [far|many days] apart are {d} and {e}?", "How many days after {d} is {e}?", "What's the gap [in days |]between {d} and {e}?", "If [today is|it is] {d}, how many days [until|till|to] {e}?"),
    },
    "weekday": {
        "what": ("the [day of the week|weekday] of {d}", "the weekday [for|on] {d}", "the day of the week [for|on] {d}"),
        "do": ("tell me [what|which] [day|weekday|day of the week] {d} [is|was|falls on]", "find [out |]the [weekday|day of the week] of {d}", "check [what|which] day [of the week |]{d} [is|was|falls on]", "look up the weekday of {d}", "give me the day of the week for {d}"),
        "tell": ("[What|Which] [day of the week|weekday|day] [is|was|will be|would be] {d}?", "[What|Which] [day of the week|weekday|day] [does|did|will] {d} fall on?", "On [what|which] [day|weekday|day of the week] [does|did|is|was] {d}[ fall|]?", "Is {d} a [Monday|Tuesday|Friday|Saturday|Sunday|weekday|weekend|working day][ or not| or what|]?", "Was {d} a [Monday|Thursday|Sunday|weekend|weekday]?", "{d} is [a|] what [day|weekday][ of the week|]?", "{d}: [weekday|which day|what day|day of the week]?", "I was born [on|] {d}. [What|Which] [day|weekday|day of the week] was [that|it]?", "[The|My|Our] [party|exam|wedding|flight|meeting|appointment] is on {d}. [What|Which] [day of the week|weekday|day] is that?", "Does {d} fall on a [weekend|Sunday|Monday]?", "weekday {d}", "day of the week {d}"),
    },
}  # fmt: skip
ZH: Table = {
    "after": {"what": ("{d}[之|以|]后{n}", "{d}过{n}", "{d}加{n}", "{d}[往后|后推|推后]{n}[的日期|]", "{d}的{n}后"), "do": ("把{d}[往后推|推后|延后|推迟|顺延]{n}", "给{d}加[上|]{n}", "[算|查|看看]{d}[之|]后{n}是[哪天|几号|哪一天]", "从{d}往后[数|推|算]{n}"), "tell": ("{d}[之|以|]后{n}是[哪天|哪一天|几号|几月几号|什么日子|什么日期]？", "{d}[再|]过{n}是[哪天|几号|哪一天|几月几号]？", "从{d}[起|开始|算起|算][，|]{n}[之|以|]后是[哪天|几号|什么日期]？", "{d}加{n}[是|等于|得][几号|哪天]？", "[合同|保修|签证|试用期|项目|课程][从|]{d}[开始|起|生效][，|][为期|有效期|共|持续]{n}[，|]什么时候[结束|到期]？", "[如果|假如|要是]今天是{d}[，|]{n}[之|以|]后是[几号|哪天]？", "{d}[下单|寄出|发货][，|]{n}[到|送到][，|][哪天|几号]到？", "{d}[推迟|延后|顺延]{n}是[几号|哪天]？")},
    "before": {"what": ("{d}[之|以|]前{n}", "{d}减{n}", "{d}[往前|前推|倒推]{n}", "{d}的{n}前"), "do": ("把{d}[往前推|提前|前推|前移]{n}", "从{d}[倒推|往前数|往前推|往回数]{n}", "[算|查|看看]{d}[之|]前{n}是[哪天|几号]"), "tell": ("{d}[之|以|]前{n}是[哪天|哪一天|几号|几月几号|什么日期]？", "{d}的{n}前是[哪天|几号|哪一天]？", "[考试|婚礼|航班|会议|截止日][是|在|]{d}[，|][要|需|得|应该|][提前]{n}[准备|出发|开始|预订][，|][是|][哪天|几号]？", "{d}提前{n}是[几号|哪天]？", "{d}减{n}[是|得][几号|哪天]？", "{d}往前[数|推|倒]{n}是[哪天|几号]？")},
    "diff": {"what": ("{d}[到|至]{e}的天数", "{d}[和|与|跟]{e}[之间|]的天数", "{d}[和|与]{e}相差的天数"), "do": ("[数|算|计算|查][一下|一数|]{d}[到|至]{e}[有|]多少天", "[计算|算]{d}[和|与]{e}[之间|]的[天数|间隔|差]", "求{d}[到|至]{e}的天数"), "tell": ("{d}[到|至|和|离|距|距离]{e}[有|是|一共|总共|共|还有|差|隔|相差|]多少天？", "{d}[到|至]{e}[有|一共|总共|共|]几天？", "{d}[和|与|跟]{e}[相差|差|之间有|之间隔了|间隔|隔][多少天|几天]？", "从{d}[到|至|算到]{e}[要|有|是|一共|]多少天？", "[我|他|我们|她]{d}[入住|出发|入院|到][，|]{e}[退房|回来|出院|走][，|][一共|总共|住了|共|][多少天|几天]？", "{d}[开始|开工][，|]{e}[结束|完工][，|][一共|共|][多少|几]天？", "{e}[离|距|距离]{d}[多少天|几天|有多少天]？", "[如果|假如]今天{d}[，|][离|到]{e}[还有|][几天|多少天]？")},
    "weekday": {"what": ("{d}[的|那天的|]星期", "{d}是[星期|周|礼拜]几"), "do": ("[查|看|算|看看|查查][一下|]{d}[是|那天是|]{w}", "[告诉我|说说]{d}是{w}"), "tell": ("{d}[是|那天是|那天|当天是|为|]{w}[？|啊？|呢？|]", "{d}[是不是|是]周末[？|吗？]", "{d}[是不是|是][星期|周][一|二|三|五|六|日][吗|]？", "[我|他|她|孩子]{d}出生[，|][那天|]是{w}？", "[婚礼|考试|会议|航班|聚会]在{d}[，|]是{w}？", "{d}[落在|对应|赶上]{w}？", "{d}要上班吗？是{w}？", "{d}，{w}？")},
}  # fmt: skip
EN_TODAY: Table = {
    "after": {"what": ("the date {n} from [now|today]", "the date in {n}", "today plus {n}", "{n} from [now|today]"), "do": ("add {n} to today", "tell me the date {n} from [now|today]", "count {n} from today"), "tell": ("What['s| is] the date in {n}?", "What [date|day of the month] [is it|will it be|is] [in {n}|{n} from now|{n} from today]?", "What[ date|] will be the date {n} from now?", "My [exam|trip|appointment|holiday] is in {n}[. |, ][what date is that|which date|when is that]?", "{n} from now is [what date|when]?", "When is {n} from [today|now]?", "If I start today, what date is it [in {n}|{n} later]?", "{n} from today?")},
    "before": {"what": ("the date {n} ago", "today minus {n}", "{n} before today"), "do": ("go back {n} from today", "subtract {n} from today", "tell me the date {n} ago"), "tell": ("What[ was|'s] the date {n} ago?", "What date was it {n} ago?", "When was {n} ago?", "It happened {n} ago[. |, ][what date was that|which date|when was that]?", "{n} ago was [what date|when]?", "Which date was {n} ago?", "I [bought|did|lost|broke] it {n} ago[. |, ]which date was that?")},
    "diff": {"what": ("the number of days [until|till|to] {e}", "the days left [until|till] {e}", "the days from [today|now] [to|until] {e}"), "do": ("count the days [until|till|to] {e}", "tell me how many days [are left |there are |it is |]until {e}", "count down to {e}"), "tell": ("How many days [until|till|to|before] {e}?", "How many days [are left|are there|do I have|is it|remain] [until|till|to|before] {e}?", "How long [is it |]until {e}?", "How [far|many days] [away|off] is {e}?", "My [exam|trip|deadline|flight] is on {e}[. |, ]how many days [are left|do I have|until then|is that]?", "Days [left |]until {e}?", "How soon is {e} in days?", "{e} is how many days away?")},
    "weekday": {"what": ("today's [weekday|day of the week]", "the [weekday|day of the week] today"), "do": ("tell me [what|which] weekday today is", "check [what|which] day of the week it is"), "tell": ("[What|Which] [day of the week|weekday|day] is [it|today|it today]?", "What[ is|'s] [today's day of the week|today's weekday]?", "Is [today|it] [a |]Monday[ today|]?", "Is [it|today] [the |a |]weekend[ yet|]?", "Is today a [Friday|working day|weekday]?", "[day|weekday] today?", "What day are we[ today| on|]?", "Today is which day[ of the week|]?")},
    "now": {"what": ("today's date", "the date [today|of today|right now]", "the current date"), "do": ("tell me [today's|the|the current] date", "check [today's|the] date", "show me today's date"), "tell": ("What's the date[ today|]?", "What is [today's date|the date today|the current date|today]?", "What date is it[ today| now|]?", "Which date is [it|today]?", "date today?", "What's today['s date|]?", "Do you know [today's date|what date it is]?", "What day of the month is it?", "current date[ please|]")},
}  # fmt: skip
ZH_TODAY: Table = {
    "after": {"what": ("{n}[之|以|]后的日期", "今天加{n}", "今天[往后|之后]{n}"), "do": ("[算|查|看看]{n}[之|以|]后是[几号|哪天]", "从今天往后[数|推|算]{n}", "给今天加{n}"), "tell": ("{n}[之|以|]后是[几号|哪天|哪一天|几月几号|什么日子]？", "[再|]过{n}是[几号|哪天|几月几号]？", "[从|][今天|现在][起|开始|算起|][，|]{n}[之|以|]后是[几号|哪天]？", "我{n}后[考试|放假|出差|出发][，|]是[哪天|几号]？", "今天[加|过|往后]{n}是[几号|哪天]？")},
    "before": {"what": ("{n}[之|以|]前的日期", "今天减{n}", "今天往前{n}"), "do": ("[算|查|看看]{n}前是[几号|哪天]", "从今天[倒推|往前数]{n}"), "tell": ("{n}[之|以|]前是[几号|哪天|哪一天|几月几号]？", "我{n}前[买的|来的|丢的][，|]是[哪天|几号]？", "今天[往前|倒推|减]{n}是[几号|哪天]？")},
    "diff": {"what": ("[今天|现在][到|离|距]{e}的天数",), "do": ("[数|算|查][一下|][今天|]到{e}[还有|有|]多少天",), "tell": ("[离|距|距离|到]{e}还[有|剩|差][多少天|几天]？", "还有[多少天|几天][到|才到|就到|是]{e}？", "[今天|现在][到|离|距]{e}[有|还有|一共|]多少天？", "{e}还有[几天|多少天][到|]？", "我{e}[考试|出发|交作业|回家][，|]还[有|剩][几天|多少天]？", "{e}[离|距离]今天[多少天|几天]？")},
    "weekday": {"what": ("今天[是|]{w}",), "do": ("[查|看看|告诉我]今天[是|]{w}",), "tell": ("今[天|日]{w}[？|啊？|呀？|呢？|]", "今天是{w}[？|来着？|]", "今天[是|是不是]周末[吗|]？", "今天是[星期|周][一|三|五][吗|]？", "[现在|今儿]{w}？", "今天要上班吗？是{w}？")},
    "now": {"what": ("今天的日期", "今天几号", "当前日期"), "do": ("[查|看看|告诉我|报一下]今天[的日期|几号|是几号]",), "tell": ("今[天|日][是|][几号|几月几号|几月几日|多少号][？|啊？|呀？|]", "今天[的|]日期[是|]？", "[现在|今儿][是|]几[号|月几号]？", "今天是什么日子？", "今天[是|]哪年哪月哪日？", "当前日期[是多少|]？")},
}  # fmt: skip
_WHICH_DAY = ("[星期|周|礼拜]几", "[星期|周|礼拜]几", "一周的哪一天")
AVOID = frozenset(
    normal(text) for table in (dates.EN, dates.ZH, dates.EN_TODAY, dates.ZH_TODAY) for group in table.values()
    for i, text in enumerate(group) if is_withheld(i)
)  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """One question about one or two dates."""
    today = rng.random() < 0.25
    form = rng.choice(("after", "before", "diff", "weekday", *(("now",) if today else ())))
    table = (EN_TODAY if language == "en" else ZH_TODAY) if today else (EN if language == "en" else ZH)
    day = any_day(rng)
    later = day + timedelta(days=rng.randint(1, rng.choice((30, 100, 400, 900))))
    count, shown = some_days(rng, language)
    slots = {"d": written(rng, language, day), "e": written(rng, language, later), "n": shown, "w": ""}
    template = say(rng, language, lambda: framed(rng, language, table[form]).replace("{w}", rng.choice(_WHICH_DAY)), AVOID, withheld)  # fmt: skip
    text = dress_up(rng, language, template, bare, **slots)
    return answered(
        rng, language, text, f"wide/dates/{form}{'/today' if today else ''}", form, day, later, count, today
    )


def answered(rng: Random, language: Language, text: str, phrasing: str, form: str, day: date, later: date, count: int, today: bool) -> Ask:  # fmt: skip
    """The call, its result and the answer. The day that the tool takes for today is any day here."""
    english = language == "en"
    passed = "today" if today else day.isoformat()
    if form == "diff":
        days = str((later - day).days)
        answer = f"There are {days} days between them." if english else f"两个日期相差{days}天。"
        return Ask(text, phrasing, "date_diff", {"date": passed, "end": later.isoformat()}, days, answer, days)
    if form == "weekday":
        weekday = dates.WEEKDAYS[language][day.weekday()]
        answer = f"It is a {weekday}." if english else f"那天是{weekday}。"
        if rng.random() < 0.25:  # the tool itself speaks English
            weekday = dates.WEEKDAYS["en"][day.weekday()]
        elif not english and rng.random() < 0.3:
            weekday = f"{dates.WEEKDAYS['en'][day.weekday()]} ({weekday})"
        fact = dates.WEEKDAYS[language][day.weekday()]
        return Ask(text, phrasing, "date_weekday", {"date": passed}, weekday, answer, fact)
    offset = {"after": count, "before": -count, "now": 0}[form]
    result = (day + timedelta(days=offset)).isoformat()
    answer = f"The date is {result}." if english else f"日期是{result}。"
    return Ask(text, phrasing, "date_add", {"date": passed, "days": offset}, result, answer, result)


def any_day(rng: Random) -> date:
    if rng.random() < 0.5:
        return date(2015, 1, 1) + timedelta(days=rng.randrange(6000))
    return date(1950, 1, 1) + timedelta(days=rng.randrange(32000))


def some_days(rng: Random, language: Language) -> tuple[int, str]:
    """A number of days and how it is said: days mostly, else weeks."""
    if rng.random() < 0.15:
        weeks = rng.randint(1, 12)
        if language == "en":
            said = numbers.in_english(weeks) if rng.random() < 0.3 else str(weeks)
            return 7 * weeks, rng.choice(("a week", "one week", "1 week")) if weeks == 1 else f"{said} weeks"
        said = numbers.in_chinese(weeks) if rng.random() < 0.4 else str(weeks)
        said = "两" if said == "二" else said
        return 7 * weeks, said + rng.choice(("周", "个星期", "个礼拜"))
    count = rng.randint(1, rng.choice((30, 100, 1000)))
    said = numbers.spoken(rng, language, str(count))
    if language == "zh":
        return count, said.replace("二", "两") + "天" if said == "二" else said + "天"
    return count, f"{said} {'day' if count == 1 else 'days'}"


def written(rng: Random, language: Language, day: date) -> str:
    """A date as people write it, never one that two countries read differently."""
    if rng.random() < 0.45:
        return day.isoformat()
    if language == "zh":
        return rng.choice((
            f"{day.year}年{day.month}月{day.day}日", f"{day.year}年{day.month}月{day.day}号", f"{day.year}/{day.month}/{day.day}",
            f"{day.year}.{day.month}.{day.day}", f"{day.year}-{day.month}-{day.day}", f"{day.year}年{day.month:02}月{day.day:02}日",
            "".join("零一二三四五六七八九"[int(c)] for c in str(day.year)) + f"年{numbers.in_chinese(day.month)}月{numbers.in_chinese(day.day)}日",
        ))  # fmt: skip
    month = dates.MONTHS[day.month - 1]
    ordinal = f"{day.day}{'th' if 10 < day.day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day.day % 10, 'th')}"
    return rng.choice((
        f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", f"{month[:3]} {day.day}, {day.year}", f"{month} {ordinal}, {day.year}",
        f"the {ordinal} of {month} {day.year}", f"{month} {day.day} {day.year}", f"{day.day} {month[:3]} {day.year}", f"{day.year}/{day.month:02}/{day.day:02}", f"{month.lower()} {ordinal} {day.year}",
    ))  # fmt: skip
