"""What slots are filled with: numbers, words, invented words, identifiers, topics. All drawn from a `random.Random`.

A third of the words are invented, so that a model must copy what it reads and cannot recite a list.
"""

from __future__ import annotations

import string
from random import Random

from deepseek.training.curriculum.sample import Language


def split(listed: str) -> tuple[str, ...]:
    """The words of a list that is written as one text."""
    return tuple(listed.split())


EN_NOUNS = split(
    "apple river engine garden bicycle window mountain coffee camera printer battery keyboard forest bridge market "
    "school hospital airport hotel museum library kitchen island desert ocean planet rocket satellite robot computer "
    "database server network compiler kernel cache scheduler token model agent plugin protein vaccine virus cell "
    "piano guitar violin concert movie novel poem painting sculpture football tennis chess marathon election tax "
    "budget salary mortgage insurance contract passport visa ticket train subway ferry tunnel harbor lighthouse "
    "castle temple pyramid volcano earthquake storm glacier rainforest tiger elephant whale dolphin eagle penguin "
    "butterfly bread noodle soup salad cheese chocolate tea wine rice potato tomato onion garlic pepper recipe "
    "jacket shoes umbrella backpack sofa lamp mirror carpet ladder hammer drill engineer doctor teacher lawyer "
    "pilot farmer history physics chemistry biology geometry algebra economics philosophy grammar language "
    "weather climate energy solar wind nuclear hydrogen steel copper gold silver diamond crystal glass paper plastic "
    "song dance festival holiday wedding birthday gift flower rose tulip oak pine bamboo moon star comet galaxy"
)
EN_ADJECTIVES = split(
    "best cheap new old fast slow quiet bright dark heavy light small large tiny famous modern ancient healthy easy "
    "simple free open secure popular wild fresh green blue red white black golden digital electric wireless portable "
    "organic vegan local global public private early late warm cold dry wet deep high low long short strong soft"
)
EN_PLACES = split(
    "Paris London Berlin Madrid Rome Vienna Oslo Dublin Athens Cairo Nairobi Lagos Mumbai Delhi Tokyo Osaka Seoul "
    "Beijing Shanghai Singapore Bangkok Hanoi Jakarta Sydney Toronto Chicago Boston Seattle Denver Lima Bogota Quito "
    "Santiago Brazil Mexico Canada France Germany Italy Spain Poland Norway Sweden Finland Japan China India Kenya "
    "Egypt Turkey Greece Portugal Iceland Vietnam Peru Chile"
)
EN_NAMES = split(
    "Alice Bob Carol David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nina Oscar Paul Quinn Rosa Sam Tina "
    "Victor Wendy Xavier Yuki Zoe Ahmed Chen Diego Fatima Hana Ivan Lin Mei Omar Priya Ravi Sara Tom Uma Wei"
)
EN_VERBS = split(
    "fix build clean cook grow learn paint repair sell buy choose install remove store measure draw plant train "
    "write read translate record share protect move carry test update charge print wash"
)
ZH_NOUNS = split(
    "苹果 河流 发动机 花园 自行车 窗户 高山 咖啡 相机 打印机 电池 键盘 森林 大桥 市场 学校 医院 机场 酒店 博物馆 图书馆 厨房 海岛 沙漠 "
    "海洋 行星 火箭 卫星 机器人 电脑 数据库 服务器 网络 编译器 内核 缓存 模型 智能体 插件 蛋白质 疫苗 病毒 细胞 钢琴 吉他 小提琴 音乐会 "
    "电影 小说 诗歌 绘画 雕塑 足球 网球 象棋 马拉松 选举 税收 预算 工资 房贷 保险 合同 护照 签证 车票 火车 地铁 渡轮 隧道 港口 灯塔 城堡 "
    "寺庙 金字塔 火山 地震 暴雨 冰川 雨林 老虎 大象 鲸鱼 海豚 老鹰 企鹅 蝴蝶 面包 面条 汤 沙拉 奶酪 巧克力 茶叶 红酒 米饭 土豆 番茄 洋葱 "
    "大蒜 辣椒 菜谱 外套 鞋子 雨伞 背包 沙发 台灯 镜子 地毯 梯子 锤子 工程师 医生 老师 律师 飞行员 农民 历史 物理 化学 生物 几何 代数 经济 "
    "哲学 语法 语言 天气 气候 能源 太阳能 风能 核能 氢气 钢铁 铜 黄金 白银 钻石 水晶 玻璃 纸张 塑料 歌曲 舞蹈 节日 假期 婚礼 生日 礼物 鲜花 "
    "玫瑰 松树 竹子 月亮 星星 彗星 银河 股票 基金 汇率 高铁 航班 快递 手机 耳机 游戏 短视频 论文 考试 作业 宠物 猫 狗 兔子 金鱼"
)
ZH_ADJECTIVES = split(
    "最好的 便宜的 新的 老的 快速的 安静的 明亮的 小型 大型 著名的 现代 古代 健康的 简单的 免费的 开源 安全的 流行的 野生 新鲜的 绿色 "
    "蓝色 红色 白色 黑色 金色 数字 电动 无线 便携 有机 素食 本地 全球 公共 私人 早期 晚期 温暖的 寒冷的 干燥的 深海 高端 低价 长途 短途"
)
ZH_PLACES = split(
    "北京 上海 广州 深圳 杭州 南京 成都 重庆 武汉 西安 天津 苏州 青岛 大连 厦门 昆明 长沙 郑州 哈尔滨 拉萨 香港 澳门 台北 东京 首尔 曼谷 "
    "新加坡 巴黎 伦敦 柏林 罗马 纽约 悉尼 开罗 中国 日本 韩国 法国 德国 英国 美国 加拿大 巴西 印度 埃及 西班牙 意大利 俄罗斯 云南 四川 海南 新疆"
)
ZH_NAMES = split(
    "张伟 王芳 李娜 刘洋 陈静 杨帆 赵磊 黄丽 周杰 吴敏 徐强 孙悦 马超 朱琳 胡军 郭涛 何平 高峰 林峰 罗兰 郑爽 梁雨 谢军 宋佳 唐宁 "
    "许晴 邓超 冯远 韩雪 曹阳 小明 小红 小刚 小丽 阿强 老王 老李"
)
ZH_VERBS = split(
    "修理 制作 清洗 烹饪 种植 学习 选择 安装 拆除 保存 测量 训练 书写 阅读 翻译 录制 分享 保护 更新 充电 打印 养护 购买 出售"
)

COMMON_HAN = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去"
    "法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点"
    "正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿"
    "原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德"
    "资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交"
    "规万取拉格望觉术领共确传师观清今切院让识候带导争运笔八六七九百千零亿收字写读词句号码查找算乘除减倍半折扣税费价钱元角块斤米里"
)
# Random characters must not look like the words around a slot: 是, 为, 的, a date, a question.
_FILLER_HAN = "".join(
    sorted(
        set(COMMON_HAN)
        - set(
            "的是不了在我你他她它们这那个和为与及同把被将给用以从到对叫让向请问记住存写读查找搜说算什么多少几怎吗年月日天号点分时元角块后前里下上中只就再也都一"
        )
    )
)
_ONSETS = split(
    "b c d f g h j k l m n p r s t v w z br bl ch cl cr dr fl fr gl gr pl pr qu sc sh sl sp st str th tr wh y"
)
_VOWELS = split("a e i o u a e i o u ai ea ee ou oo ie")
_CODAS = ("", "", "", "", "n", "r", "s", "t", "l", "m", "ck", "nd", "ng", "st", "x", "p", "d")
_ENDINGS = ("", "", "", "", "s", "er", "ing", "ed", "tion", "ment", "ly", "al", "ity", "ness", "able", "ist", "age")


def invented_word(rng: Random) -> str:
    """A pronounceable word nobody has seen, made of the sounds of English: ``velonity``, ``Stroub``."""
    text = "".join(_syllable(rng) for _ in range(rng.choice((1, 1, 2, 2, 2)))) + rng.choice(_ENDINGS)
    while len(text) < 5:  # shorter ones may be words that mark a slot's end: "for", "from", "the"
        text += _syllable(rng)
    return text.capitalize() if rng.random() < 0.15 else text


def _syllable(rng: Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)


def random_string(rng: Random, low: int = 3, high: int = 8) -> str:
    """Letters, digits and now and then ``-`` or ``_`` inside: ``q7xk-02b``."""
    alphabet = rng.choice(
        (string.ascii_lowercase, string.ascii_lowercase + string.digits, string.ascii_uppercase + string.digits)
    )
    body = "".join(rng.choice(alphabet) for _ in range(rng.randint(low, high)))
    if len(body) >= 5 and rng.random() < 0.25:
        cut = rng.randint(2, len(body) - 2)
        body = body[:cut] + rng.choice("-_") + body[cut:]
    return body


def identifier(rng: Random) -> str:
    """A name a program could use: it starts with a letter and holds letters, digits and underscores."""
    shape = rng.random()
    if shape < 0.4:
        return invented_word(rng)
    if shape < 0.7:
        return f"{invented_word(rng)}_{rng.choice((invented_word(rng), rng.choice(EN_NOUNS), str(rng.randint(0, 99))))}"
    if shape < 0.85:
        return rng.choice(string.ascii_lowercase) + "".join(
            rng.choice(string.ascii_lowercase + string.digits) for _ in range(rng.randint(1, 6))
        )
    return f"{rng.choice(EN_VERBS)}_{rng.choice(EN_NOUNS)}"


def han_string(rng: Random) -> str:
    """A few common characters in no meaningful order."""
    return "".join(rng.choice(_FILLER_HAN) for _ in range(rng.randint(2, 5)))


_SCRIPTS = (
    (0x21, 0x7E),
    (0x21, 0x7E),
    (0xC0, 0xFF),
    (0x391, 0x3C9),
    (0x410, 0x44F),
    (0x3041, 0x30F6),
    (0xAC00, 0xD7A3),
    (0x4E00, 0x9FA5),
    (0x1F600, 0x1F64F),
)


def rare_characters(rng: Random) -> str:
    """Signs, other scripts, rare characters, emoji: what is spelt byte by byte must be copied too."""
    characters = []
    for _ in range(rng.randint(1, 6)):
        low, high = rng.choice(_SCRIPTS)
        characters.append(chr(rng.randint(low, high)))
    return "".join(characters)


def word(rng: Random, language: Language) -> str:
    """One word of `language`, a third of the time invented."""
    if rng.random() < 0.35:
        return invented_word(rng) if language == "en" else han_string(rng)
    if language == "en":
        return rng.choice(rng.choice((EN_NOUNS, EN_ADJECTIVES, EN_PLACES, EN_NAMES, EN_VERBS)))
    return rng.choice(rng.choice((ZH_NOUNS, ZH_PLACES, ZH_NAMES, ZH_VERBS)))


def name(rng: Random, language: Language) -> str:
    return rng.choice(EN_NAMES if language == "en" else ZH_NAMES)


def noun(rng: Random, language: Language) -> str:
    if rng.random() < 0.3:
        return invented_word(rng) if language == "en" else han_string(rng)
    return rng.choice(EN_NOUNS if language == "en" else ZH_NOUNS)


def phrase(rng: Random, language: Language) -> str:
    """One to four unrelated words."""
    joiner = " " if language == "en" else ""
    return joiner.join(word(rng, language) for _ in range(rng.randint(1, 4)))


def topic(rng: Random, language: Language) -> str:
    """Something to search for: ``best noodle in Osaka``, ``北京最好的面条``."""
    n = noun(rng, language)
    if language == "en":
        adjective, place, verb = rng.choice(EN_ADJECTIVES), rng.choice(EN_PLACES), rng.choice(EN_VERBS)
        forms = (
            f"{adjective} {n} in {place}", f"{n} prices in {place}", f"how to {verb} a {n}", f"{place} {n} {rng.randint(1990, 2030)}",
            f"{adjective} {n}", f"{n} and {noun(rng, language)}", f"history of the {n}", f"{n} {random_string(rng)}",
            f"{word(rng, language)} {word(rng, language)} {n}", f"who invented the {n}", f"{place} weather",
            f"{rng.choice(EN_NAMES)} {invented_word(rng)}", n, f"{n} near {place}", f"{n} {rng.choice(('review', 'news', 'tutorial', 'guide', 'facts', 'price'))}",
        )  # fmt: skip
    else:
        adjective, place, verb = rng.choice(ZH_ADJECTIVES), rng.choice(ZH_PLACES), rng.choice(ZH_VERBS)
        forms = (
            f"{place}{adjective}{n}", f"{place}{n}价格", f"怎么{verb}{n}", f"{rng.randint(1990, 2030)}年{place}{n}", f"{adjective}{n}",
            f"{n}和{noun(rng, language)}", f"{n}的历史", f"{n}{random_string(rng)}", f"{word(rng, language)}{word(rng, language)}{n}",
            f"谁发明了{n}", f"{place}天气", f"{rng.choice(ZH_NAMES)}{han_string(rng)}", n, f"{place}附近的{n}",
            f"{n}{rng.choice(('评测', '新闻', '教程', '攻略', '排名', '价格'))}",
        )  # fmt: skip
    return rng.choice(forms)


def integer(rng: Random, digits: int = 6) -> str:
    """A positive whole number of up to `digits` digits, short ones as likely as long ones."""
    length = rng.randint(1, digits)
    return str(rng.randint(1 if length == 1 else 10 ** (length - 1), 10**length - 1))


def number(rng: Random, digits: int = 6, decimals: float = 0.25) -> str:
    """An `integer`, or with chance `decimals` one with one or two decimals, the last never zero."""
    whole = integer(rng, digits)
    if rng.random() >= decimals:
        return whole
    places = rng.randint(1, 2)
    tail = "".join(rng.choice(string.digits) for _ in range(places - 1)) + rng.choice("123456789")
    return f"{whole if rng.random() < 0.9 else 0}.{tail}"


def grouped(rng: Random, text: str) -> str:
    """Now and then the way people write large numbers: ``12,500`` for ``12500``."""
    whole, dot, tail = text.partition(".")
    if len(whole) < 4 or rng.random() >= 0.1:
        return text
    return f"{int(whole):,}{dot}{tail}"
