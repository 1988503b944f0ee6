"""Key-value memory: keys and values are the user's own words, exactly."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.phrasing import Ask, compose
from deepseek.training.curriculum.sample import Language

EN_SET = (
    "Remember that my {k} is {v}.", "My {k} is {v}. Remember it.", "Save {v} under {k}.", "Store {v} as {k}.", "Please note: {k} is {v}.",
    "Keep in mind that {k} is {v}", "Set {k} to {v}.", "Write down that the {k} is {v}.", "{k} = {v}, remember that", "Don't forget that my {k} is {v}.",
    "I want you to remember my {k}: {v}", "Memorize {k}: {v}", "Put {v} in memory as {k}.", "Save this for later: {k} is {v}.", "Can you store that {k} is {v}?",
    "For the record, my {k} is {v}. Save that.", "Note my {k} as {v}.", "Update {k} to {v}.", "The {k} is {v}; keep it for me.", "Record {v} as my {k}.",
    "Under the name {k}, save {v}.", "Let {k} be {v} from now on; remember it.", "Make a note that {k} is {v}.", "Add to memory: {k} is {v}", "Please remember {v} as the {k}.",
)  # fmt: skip
EN_GET = (
    "What is my {k}?", "Recall {k}.", "What did I save under {k}?", "Tell me my {k}.", "Look up {k} in memory.",
    "Do you remember my {k}?", "Get {k}", "I forgot my {k}. What is it?", "What was the {k} I told you?", "Read back {k}.",
    "Can you recall my {k}?", "What value is stored for {k}?", "Fetch my {k} from memory", "Remind me of my {k}.", "Which {k} did I give you?",
    "What do you have saved as {k}?", "Give me back the {k} I stored", "My {k}, please?", "Show the note called {k}.", "Please look in your memory for {k}.",
    "Find the saved {k}", "I once told you my {k}. What was it?", "What's stored in {k}?", "Could you tell me the {k} I saved?", "Say what {k} was.",
)  # fmt: skip
ZH_SET = (
    "请记住我的{k}是{v}。", "我的{k}是{v}，记一下", "把{v}保存为{k}", "记住：{k}是{v}", "帮我记下{k}：{v}", "将{k}设为{v}", "别忘了我的{k}是{v}", "存一下，{k}是{v}", "把我的{k}记成{v}", "{k}={v}，请记住",
    "麻烦记录{k}为{v}", "备注一下：{k}是{v}。", "以后{k}就是{v}，记住了", "写入记忆：{k}是{v}", "请保存{k}，内容是{v}", "我告诉你，{k}是{v}，你要记住", "把{k}更新为{v}", "用{k}这个名字保存{v}",
    "记录一下我的{k}：{v}", "请把{k}改成{v}并记住", "替我存好{k}，值为{v}", "在{k}下面存{v}", "{k}是{v}，先帮我记着", "请你记牢{k}是{v}", "添加笔记，{k}：{v}",
)  # fmt: skip
ZH_GET = (
    "我的{k}是什么？", "你还记得我的{k}吗？", "{k}是多少来着？", "我之前存的{k}是什么", "告诉我{k}", "查一下我保存的{k}", "读取{k}", "我忘了{k}，是什么？", "帮我回忆一下{k}", "取出{k}的值", "{k}里存了什么？",
    "我让你记的{k}是什么？", "请把{k}念给我听", "之前告诉过你的{k}是什么", "看看记忆里的{k}", "名为{k}的笔记内容是什么？", "提醒我一下我的{k}", "找出我存的{k}", "给我{k}", "从记忆中读出{k}", "我存过{k}，内容是什么？",
    "请问我的{k}是？", "{k}，你记得吗？", "想一下我的{k}是什么", "把保存的{k}给我",
)  # fmt: skip
EN_KEYS = (
    "wifi password", "locker code", "favorite color", "phone number", "birthday", "dog's name", "parking spot", "blood type", "shoe size", "door code",
    "flight number", "meeting room", "office address", "account number", "favorite food", "sister's name", "project deadline", "server name", "api key", "username",
    "seat number", "license plate", "order number", "bank", "doctor", "home town", "gate", "pin", "ticket number", "shirt size",
)  # fmt: skip
ZH_KEYS = (
    "无线密码", "储物柜密码", "最喜欢的颜色", "电话号码", "生日", "小狗的名字", "停车位", "血型", "鞋码", "门禁密码",
    "航班号", "会议室", "办公地址", "账号", "最爱的食物", "妹妹的名字", "项目截止日", "服务器名", "密钥", "用户名",
    "座位号", "车牌号", "订单号", "银行", "医生", "家乡", "登机口", "取件码", "票号", "衣服尺码",
)  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool) -> Ask:
    """Store a value, or ask for one."""
    english = language == "en"
    key = any_key(rng, language)
    value = any_value(rng, language)
    shown_key, shown_value = key, value
    if rng.random() < 0.12:
        left, right = ('"', '"') if english else ("“", "”")
        shown_key, shown_value = left + key + right, left + value + right
    if rng.random() < 0.5:
        phrasings = EN_SET if english else ZH_SET
        text, phrasing = compose(rng, language, "memory/set", phrasings, withheld, k=shown_key, v=shown_value)
        answer = f"Saved: {key} is {value}." if english else f"已记住：{key}是{value}。"
        result = rng.choice(("ok", "saved", "true", "done"))
        return Ask(text, phrasing, "memory_set", {"key": key, "value": value}, result, answer, value)
    phrasings = EN_GET if english else ZH_GET
    text, phrasing = compose(rng, language, "memory/get", phrasings, withheld, k=shown_key)
    if rng.random() < 0.1:
        answer = f"Nothing is saved as {key}." if english else f"没有保存过{key}。"
        return Ask(
            text, phrasing, "memory_get", {"key": key}, rng.choice(("null", "not found", "none")), answer, answer[:-1]
        )
    answer = f"{key}: {value}" if english else f"{key}：{value}"
    return Ask(text, phrasing, "memory_get", {"key": key}, value, answer, value)


def any_key(rng: Random, language: Language) -> str:
    drawn = rng.random()
    if drawn < 0.4:
        return rng.choice(EN_KEYS if language == "en" else ZH_KEYS)
    if drawn < 0.6:
        return words.identifier(rng)
    if language == "en":
        return (
            f"{words.word(rng, language)} {rng.choice(('code', 'name', 'number', 'address', 'plan', 'list'))}".lower()
        )
    return words.word(rng, language) + rng.choice(("编号", "名称", "号码", "地址", "计划", "清单"))


def any_value(rng: Random, language: Language) -> str:
    drawn = rng.random()
    if drawn < 0.3:
        return words.random_string(rng)
    if drawn < 0.5:
        return words.integer(rng)
    if drawn < 0.6:
        return words.name(rng, language)
    return words.phrase(rng, language)
