"""Key-value memory, as everybody asks. Keys and values are the user's own words without ``my`` and ``the``."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import memory, words
from deepseek.training.curriculum.paraphrase import lexicon
from deepseek.training.curriculum.paraphrase.frames import Table, framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, normal, say
from deepseek.training.curriculum.phrasing import Ask, is_withheld
from deepseek.training.curriculum.sample import Language

EN: Table = {
    "set": {
        "what": (),
        "do": ("remember [that |][my|the|our] {k} is {v}", "remember [my|the|our] {k}: {v}", "[save|store|keep|record|note] {v} as [my|the|our|] {k}", "[save|store|put|file|keep] {v} under [the name |the key |]{k}", "[note|write] down [that |][my|the|our] {k} is {v}", "keep in mind [that |]my {k} is {v}", "[set|change|update] [my|the|our|] {k} to {v}", "make a note[ that|:] [my|the|our] {k} is {v}", "memorize [that |][my|the|our] {k} is {v}", "store [my|the|our] {k}, [it is|it's|which is] {v}", "save [my|the|our] {k} as {v}", "don't forget [that |][my|the|our] {k} is {v}", "add {k} = {v} to [your |the |]memory", "put {k} = {v} in [your |the |]memory", "save [that |][my|the|our] {k} is {v}", "save the [note|value|fact] {k}: {v}", "remember {v} as [my|the|our] {k}", "log [my|the|our] {k} as {v}", "note [my|the|our] {k}: {v}", "store {k}: {v}", "save {k} = {v}", "keep {v} for me as {k}", "write to memory: {k} is {v}"),
        "tell": ("My {k} is {v}[, |. ][remember it|remember that|please remember|keep that in mind|note it down|save it|save that|don't forget it|don't forget|store it|write it down|make a note|keep it][ please| for me|].", "[The|Our|My] {k} is {v}[, |; |. ][please |can you |could you |][save|remember|store|note|keep] [it|that|this].", "{k} is {v}, [remember|save|note|keep] [that|it].", "[FYI|For the record|For later|Just so you know|For future reference|Note][:|,] [my|the|our] {k} is {v}[. Remember it.|. Save that.|, save it|, keep it in mind]", "From now on [my|the|our] {k} is {v}[, remember it|. Save it|, please note|]."),
    },
    "get": {
        "what": ("my {k}", "the {k} I [saved|told you|gave you|stored|mentioned|asked you to remember]", "my saved {k}", "my {k} from memory", "the value [stored|saved] [for|under|as] {k}"),
        "do": ("[tell me|give me|show me|remind me of|recall|retrieve|fetch|look up|read out|get|read back|pull up|find|check|bring up] my [saved |stored |]{k}", "[tell me|give me|show me|recall|retrieve|fetch|look up|get] the {k} I [saved|told you|gave you|stored]", "tell me what my {k} [is|was]", "remind me what my {k} [is|was]", "check [your |]memory for [my |the |]{k}", "look in [your |the |]memory for [my |the |]{k}", "read [my |]{k} from memory", "recall what I said [my|the|our] {k} [was|is]", "tell me what I saved [under|as|for] {k}", "look up {k} in [your |the |]memory"),
        "tell": ("[What's|What is|What was] my {k}[ again|, remember|]?", "[What's|What was|What is] the {k} I [told you|saved|gave you|mentioned|asked you to remember][ earlier| before| last time|]?", "[What|Which] {k} did I [give|tell|mention to] you?", "Do you [remember|recall|know|still know|still have] [my|the|our] {k}?", "I [forgot|don't remember|can't remember|lost|need] my {k}[. |, |; ][what is it|what was it|can you tell me|tell me|do you have it|please look it up|]?", "What did I [save|store|note|put|write|keep] [under|as|for] {k}?", "What [do you have|is saved|is stored|have I saved|is there|value is stored] [for|as|under|in memory for] {k}?", "What did I [say|tell you] [my|the|our] {k} [was|is]?", "[Have I|Did I] [told|tell] you my {k}[. What is it|]?", "{k}?", "my {k}?", "my {k}[, what was it|, please|, do you remember it| again]?", "Can you [remember|recall] what my {k} [is|was]?", "I [once|already|earlier] told you my {k}. [What is it|What was it|Say it|Tell me]?", "Is there a [note|value|memory] [for|called|named] {k}[. What does it say|. Read it|]?"),
    },
}  # fmt: skip
ZH: Table = {
    "set": {
        "what": (),
        "do": ("记住[我的|]{k}[是|为|：]{v}", "记[一下|下来|下|住][，|：|]我的{k}是{v}", "把{v}[存|保存|记|记录][为|成|作]{k}", "把我的{k}[存|记|设|改|保存][成|为]{v}", "[保存|存储|记录|存下|记下][我的|]{k}[：|为|是|，]{v}", "[备注|做个笔记|笔记][：|，|一下，]{k}[是|：]{v}", "别忘[了|记]我的{k}是{v}", "存[一下|起来|好|个]{k}[：|，|是]{v}", "将{k}[设置|设|更新|改][为|成]{v}", "[在记忆里|在备忘录里|]写[入|下]{k}[是|：|为]{v}", "用{k}[这个名字|作名字|做键|]存{v}", "[帮我|替我]记[着|住|下]{k}[是|：]{v}", "记{k}={v}", "保存{k}={v}"),
        "tell": ("我的{k}是{v}[，|。][记住|记一下|请记住|帮我记住|别忘了|保存一下|存起来|记下来|你记好|记着]。", "{k}是{v}[，|。][记住|请保存|记一下|帮我存一下|记着|别忘了]。", "[以后|从现在起|今后][我的|]{k}[就|]是{v}[，记住|了|，记一下|]。", "[告诉你|跟你说|听好][，|：]我的{k}是{v}[，|。][要记住|记住|别忘]。", "{k}：{v}[，|。][记住|保存|记一下]。", "[下次|以后]问你{k}[，|]就[说|答|是]{v}，[记住|记好]。"),
    },
    "get": {
        "what": ("我的{k}", "我[存|保存|记|告诉你]的{k}", "我之前[存|说|记|保存]的{k}", "记忆里的{k}"),
        "do": ("[告诉|提醒]我我的{k}[是什么|是多少|]", "[查|看|找|取|读|翻][一下|出|]我[存|保存|记|之前存]的{k}", "[回忆|想|想想|查查][一下|]我的{k}[是什么|是多少|]", "[读取|取出|调出|查询|找出|念出][我的|]{k}", "从[记忆|备忘录][里|中][读|取|找|查][出|]{k}", "看看[记忆|备忘录|笔记][里|中]的{k}", "把我[存|记|保存|告诉你]的{k}[给我|念一下|告诉我|说一下]", "说说我的{k}"),
        "tell": ("我的{k}[是什么|是多少|是啥|是哪个|是|叫什么][来着|呢|呀|]？", "[你|]还记得我的{k}[吗|是什么吗|是什么|是多少|是多少吗]？", "我[忘了|不记得|想不起|记不起][我的|]{k}[了|]，[是什么|是多少|告诉我|帮我查查|你知道吗]？", "我[之前|上次|刚才|昨天|]让你记的{k}[是什么|是多少|呢]？", "我[之前|上次|以前|]说过{k}[，|]是[什么|多少]？", "{k}[是什么|是多少|是啥]？", "{k}呢？", "你知道我的{k}[吗|是什么吗|是什么]？", "[记忆|备忘录|笔记][里|中][的|]{k}[是|写了|存了][什么|啥]？", "{k}[里|下面|这个键][存|保存|记][了|的是]什么？", "我[存|记|保存]的{k}[是什么|是多少|呢|是哪个]？", "我跟你说过的{k}[是什么|呢]？"),
    },
}  # fmt: skip
_EN_MORE_KEYS = (
    "favourite colour", "favourite color", "cat's name", "wife's birthday", "husband's name", "mother's name", "email", "email address", "address", "street", "zip code", "postcode", "car", "car color", "budget", "rent", "salary", "height", "weight", "age", "name", "nickname", "city", "country", "job", "boss", "manager's name", "team", "favorite movie",
    "favorite song", "favorite band", "favorite book", "favorite number", "lucky number", "hotel", "hotel room", "room number", "train", "departure time", "arrival time", "appointment", "meeting time", "dentist", "passport number", "insurance number", "customer number", "bus line", "garage code", "alarm code", "safe combination", "password", "locker", "bike lock code", "brother's name", "son's school",
    "daughter's birthday", "anniversary", "coffee order", "allergy", "medication", "size", "goal", "target", "step count", "plan", "project", "project name", "branch", "server", "port", "database", "host", "laptop", "printer", "desk", "extension", "wake-up time", "gym", "coach", "language", "timezone", "printer ip", "router password", "guest wifi",
)  # fmt: skip
_ZH_MORE_KEYS = (
    "名字", "昵称", "年龄", "身高", "体重", "邮箱", "地址", "邮编", "手机号", "电话", "城市", "工作", "老板", "领导", "团队", "最喜欢的电影", "最喜欢的歌", "最喜欢的书", "喜欢的颜色", "幸运数字", "酒店", "房间号", "火车班次", "出发时间", "到达时间", "预约时间", "会议时间", "牙医", "护照号", "保险号", "客户号", "公交线路", "车库密码",
    "保险箱密码", "密码", "自行车锁密码", "哥哥的名字", "儿子的学校", "女儿的生日", "老婆的生日", "结婚纪念日", "咖啡口味", "过敏", "药", "目标", "预算", "房租", "工资", "步数", "计划", "项目", "项目名", "分支", "服务器", "端口", "数据库", "主机", "电脑", "工位", "分机号", "起床时间", "健身房", "教练", "语言", "时区", "猫的名字", "车的颜色", "路由器密码", "班主任",
)  # fmt: skip
_EN_KINDS = (
    "code",
    "name",
    "number",
    "address",
    "plan",
    "list",
    "password",
    "date",
    "time",
    "price",
    "size",
    "color",
    "email",
    "id",
    "key",
    "team",
    "note",
    "idea",
    "account",
    "model",
)
_EN_OF = ("favorite", "favourite", "new", "old", "first", "next", "best", "second", "secret", "main")
_ZH_KINDS = (
    "编号",
    "名称",
    "号码",
    "地址",
    "计划",
    "清单",
    "密码",
    "日期",
    "时间",
    "价格",
    "尺寸",
    "颜色",
    "邮箱",
    "账号",
    "型号",
    "的名字",
)
AVOID = frozenset(
    normal(text) for group in (memory.EN_SET, memory.EN_GET, memory.ZH_SET, memory.ZH_GET) for i, text in enumerate(group) if is_withheld(i)
)  # fmt: skip


def key(rng: Random, language: Language) -> str:
    drawn = rng.random()
    if drawn < 0.25:
        word = lexicon.wild(rng, language)
        if language == "en":
            return (
                word
                if rng.random() < 0.4
                else f"{word} {rng.choice(_EN_KINDS)}"
                if rng.random() < 0.6
                else f"{rng.choice(_EN_OF)} {word}"
            )
        return word if rng.random() < 0.4 else word + rng.choice(_ZH_KINDS)
    if drawn < 0.75:
        return rng.choice((*memory.EN_KEYS, *_EN_MORE_KEYS) if language == "en" else (*memory.ZH_KEYS, *_ZH_MORE_KEYS))
    return memory.any_key(rng, language)


def value(rng: Random, language: Language) -> str:
    drawn = rng.random()
    if drawn < 0.3:
        return memory.any_value(rng, language)
    if drawn < 0.6:
        return lexicon.wild_phrase(rng, language, 3)
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    if language == "en":
        return rng.choice((
            f"{hour}:{minute:02}", f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}", f"{rng.randint(1, 12)}{rng.choice(('am', 'pm'))}", rng.choice(words.EN_PLACES), rng.choice(words.EN_NAMES),
            f"{rng.choice(words.EN_NAMES).lower()}@{words.invented_word(rng).lower()}.com", rng.choice(("blue", "teal", "dark green", "red", "purple", "orange", "pink", "black", "navy blue", "yellow")),
            f"{words.integer(rng, 3)} {rng.choice(('kg', 'cm', 'euros', 'dollars', 'km', 'meters', 'pounds', 'hours'))}", f"{rng.choice(words.EN_NAMES)} {words.invented_word(rng).capitalize()}",
            f"{rng.choice(words.EN_ADJECTIVES)} {rng.choice(words.EN_NOUNS)}", rng.choice(words.EN_NOUNS), f"{rng.randint(1, 200)} {words.invented_word(rng).capitalize()} Street", f"{rng.randint(1990, 2040)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
            rng.choice(("Monday", "Tuesday", "Friday at noon", "next Sunday", "March 5", "July 14", "Room 12", "B-17", "Gate 4")), words.integer(rng, 8),
        ))  # fmt: skip
    return rng.choice((
        f"{hour}:{minute:02}", f"{rng.choice(('上午', '下午', '晚上'))}{rng.randint(1, 12)}点", rng.choice(words.ZH_PLACES), rng.choice(words.ZH_NAMES), f"{words.invented_word(rng).lower()}@{words.invented_word(rng).lower()}.cn",
        rng.choice(("蓝色", "红色", "墨绿色", "紫色", "橙色", "粉色", "黑色", "天蓝色", "黄色", "白色")), f"{words.integer(rng, 3)}{rng.choice(('公斤', '厘米', '元', '公里', '米', '斤'))}", rng.choice(words.ZH_NOUNS), f"{rng.choice(words.ZH_PLACES)}{rng.choice(('路', '街', '大道'))}{rng.randint(1, 300)}号",
        f"{rng.randint(1990, 2040)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}", f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日", f"{rng.randint(1, 30)}楼{words.integer(rng, 4)}室", words.integer(rng, 8), f"{rng.choice(words.ZH_ADJECTIVES)}{rng.choice(words.ZH_NOUNS)}",
    ))  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """Store a value, or ask for one."""
    kept, held = key(rng, language), value(rng, language)
    form = rng.choice(("set", "get"))
    table = EN if language == "en" else ZH
    template = say(rng, language, lambda: framed(rng, language, table[form], (2, 4, 5)), AVOID, withheld)
    shown_key, shown_value = kept, held
    if rng.random() < 0.08:
        left, right = rng.choice((('"', '"'), ("'", "'")) if language == "en" else (("“", "”"), ('"', '"')))
        shown_key, shown_value = left + kept + right, left + held + right
    text = dress_up(rng, language, template, bare, k=shown_key, v=shown_value)
    if form == "set":
        return stored(rng, language, text, "wide/memory/set", kept, held)
    return recalled(rng, language, text, "wide/memory/get", kept, held)


def stored(rng: Random, language: Language, text: str, phrasing: str, kept: str, held: str) -> Ask:
    answer = f"Saved: {kept} is {held}." if language == "en" else f"已记住：{kept}是{held}。"
    result = rng.choice(("ok", "ok", "saved", "done", "Saved.", f"saved {kept}", "true"))
    return Ask(text, phrasing, "memory_set", {"key": kept, "value": held}, result, answer, held)


def recalled(rng: Random, language: Language, text: str, phrasing: str, kept: str, held: str) -> Ask:
    if rng.random() < 0.12:
        answer = f"Nothing is saved as {kept}." if language == "en" else f"没有保存过{kept}。"
        nothing = rng.choice(
            ("null", "not found", "none", "not found", f"nothing is saved as {kept}", f"no value for {kept}")
        )
        return Ask(text, phrasing, "memory_get", {"key": kept}, nothing, answer, answer[:-1])
    answer = f"{kept}: {held}" if language == "en" else f"{kept}：{held}"
    return Ask(text, phrasing, "memory_get", {"key": kept}, held, answer, held)
