"""Short greetings and small talk. One answer a kind and language, so that a small model can be sure of it."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum.phrasing import Chat, compose
from deepseek.training.curriculum.sample import Language

# kind: (what is said, what is answered)
EN: dict[str, tuple[tuple[str, ...], str]] = {
    "hello": (("Hello", "Hi", "Hello!", "Hi there!", "Hey", "Good day!", "Hello there.", "Greetings!", "Hi!", "Howdy!", "Hey there", "Hello, assistant."), "Hello! How can I help you?"),
    "how": (("How are you?", "How are you doing?", "How is it going?", "How are you today?", "How do you feel?", "Are you well?", "How have you been?", "Are you doing fine?", "How are things?", "Everything all right with you?"), "I am fine, thank you. How can I help you?"),
    "thanks": (("Thank you!", "Thanks a lot.", "Thanks!", "Many thanks.", "Thank you very much!", "I appreciate it.", "Great, thanks.", "That helped, thank you.", "Thanks for your help.", "Thank you so much."), "You are welcome!"),
    "bye": (("Goodbye!", "Bye!", "See you later.", "Good night!", "Bye bye", "See you tomorrow.", "I have to go now.", "That is all for today.", "Take care!", "Until next time."), "Goodbye! Have a nice day."),
    "who": (("Who are you?", "What is your name?", "What are you?", "Introduce yourself.", "Tell me about yourself.", "May I know your name?", "Who am I talking to?", "What should I call you?", "Say who you are.", "Do you have a name?"), "I am deepseek-tiny, a small demonstration model."),
    "skills": (("What can you do?", "How can you help me?", "What are you good at?", "What are your skills?", "Can you help me?", "What do you offer?", "What kinds of things do you do?", "Tell me what you can do.", "What tasks can I give you?", "In what ways are you useful?"), "I can call tools for arithmetic, units, dates, memory and web search, and answer questions about this platform."),
    "praise": (("Good job!", "Well done!", "You are great.", "Nice work.", "Excellent!", "You did that well.", "Very good!", "Impressive.", "Perfect!", "Good answer."), "Thank you! I am glad to help."),
    "sorry": (("Sorry!", "I am sorry.", "My mistake.", "Sorry about that.", "I apologize.", "Oops, sorry.", "Excuse my mistake.", "I got that wrong.", "Forgive me.", "I did not mean that, sorry."), "No problem at all."),
    "human": (("Are you a human?", "Are you a robot?", "Are you a real person?", "Are you an AI?", "Do you have feelings?", "Am I talking to a machine?", "Are you alive?", "Is there a person behind this?", "Are you just a program?", "So you are not human?"), "No, I am a small language model."),
}  # fmt: skip
ZH: dict[str, tuple[tuple[str, ...], str]] = {
    "hello": (("你好", "您好", "你好！", "嗨", "哈喽", "大家好", "你好呀", "您好！", "喂，你好", "在吗？", "嗨，你好！", "有人吗？"), "你好！有什么可以帮你？"),
    "how": (("你好吗？", "最近怎么样？", "你今天好吗", "过得怎么样？", "还好吗？", "近来如何？", "你最近好吗？", "今天心情怎么样？", "一切都好吗？", "你还好吧？"), "我很好，谢谢。有什么可以帮你？"),
    "thanks": (("谢谢！", "谢谢你", "多谢", "非常感谢！", "感谢你的帮助", "太感谢了", "谢了", "辛苦你了", "谢谢你的帮忙", "十分感谢"), "不客气！"),
    "bye": (("再见", "拜拜", "回头见", "晚安", "明天见", "我走了", "下次再聊", "今天就到这里", "保重", "改天见"), "再见！祝你愉快。"),
    "who": (("你是谁？", "你叫什么名字", "你是什么？", "介绍一下你自己", "请自我介绍", "怎么称呼你？", "我在和谁说话？", "能告诉我你的名字吗", "说说你是谁", "你有名字吗？"), "我是deepseek-tiny，一个小型演示模型。"),
    "skills": (("你会做什么？", "你能做什么", "你能帮我什么？", "你有什么本领？", "你擅长什么", "你有哪些功能？", "能帮帮我吗？", "说说你会什么", "可以让你做哪些事？", "你有什么用？"), "我能调用工具做算术、单位换算、日期、记忆和网页搜索，也能回答关于本平台的问题。"),
    "praise": (("做得好！", "你真棒", "真厉害", "干得漂亮", "很好！", "太棒了", "不错", "你真聪明", "完美！", "回答得好"), "谢谢夸奖！很高兴能帮到你。"),
    "sorry": (("对不起", "抱歉", "不好意思", "我弄错了", "是我的错", "非常抱歉", "对不起，打错了", "请原谅", "我说错了", "是我不好"), "没关系。"),
    "human": (("你是人吗？", "你是机器人吗", "你是真人吗？", "你是人工智能吗？", "你有感情吗", "我在和机器聊天吗？", "你是活的吗？", "你背后有人吗？", "你只是个程序吗？", "所以你不是人？"), "不是，我是一个小型语言模型。"),
}  # fmt: skip


def chat(rng: Random, language: Language, withheld: bool) -> Chat:
    """A greeting and its answer."""
    table = EN if language == "en" else ZH
    kind = rng.choice(tuple(table))
    phrasings, answer = table[kind]
    text, phrasing = compose(rng, language, f"greetings/{kind}", phrasings, withheld)
    return Chat(text, phrasing, answer, answer)
