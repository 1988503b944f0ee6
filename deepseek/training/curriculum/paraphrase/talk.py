"""What is said to an agent that needs no tool: small talk in many words, requests that are beyond a small model."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import greetings, words
from deepseek.training.curriculum.paraphrase import lexicon
from deepseek.training.curriculum.paraphrase.frames import framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, normal, roughen, say
from deepseek.training.curriculum.phrasing import Chat, is_withheld
from deepseek.training.curriculum.sample import Language

EN: dict[str, tuple[str, ...]] = {
    "hello": ("[hi|hello|hey|hiya|howdy|yo|good morning|good afternoon|good evening|greetings|hello there|hi there|hey there|good day|morning|evening][!|.|]", "[hi|hello|hey] [there|assistant|bot|tiny|deepseek|friend|again|everyone|buddy|you][!|.|]", "[hey|hello|hi], [nice to meet you|anyone there|are you there|can you hear me|good to see you][!|?|.]"),
    "how": ("how [are you|are you doing|is it going|are things|have you been|do you feel|'s it going|is your day|'s your day|are you feeling][ today| doing| so far| now|]?", "[are you|everything] [ok|fine|well|all right|good|okay]?", "[what's up|how's life|how's everything|how goes it|you good|you ok|are you having a good day][?]", "[hi|hey|hello][,|!] how [are you|are things|is it going][ today|]?"),
    "thanks": ("[thanks|thank you|thx|ty|cheers|many thanks|thanks a lot|thanks a bunch|thank you so much|thank you very much|much appreciated|appreciate it|great, thanks|ok thanks|perfect, thank you][!|.|]", "[that|this] [was|is|helped] [very helpful|helpful|a great help|just what I needed|really useful|exactly what I wanted][, thanks|, thank you|. Thanks!|]", "thanks for [your help|the help|helping|that|everything|your time][!|.|]"),
    "bye": ("[bye|goodbye|bye bye|see you|see ya|good night|farewell|later|take care|cya|until tomorrow|see you soon|talk to you later|have a good one|have a nice day][!|.|]", "[ok|well|alright][,|] [bye|goodbye|see you|I'm leaving|I have to go|that's all|that's it for today|I'm done for today][!|.|]", "I [have to|must|gotta|need to] [go|leave|run][ now|][, bye|]."),
    "who": ("[who|what] are you[ exactly| really|]?", "what['s| is] your name?", "[tell me|say|explain] [who|what] you are.", "[do you have|what is|may I ask|can you tell me] [a name|your name]?", "which model [are you|is this|am I talking to]?", "[introduce|describe|present] yourself[ please| briefly|].", "who [am I|are we] [talking|speaking|chatting] [to|with]?", "what [kind of|sort of] [model|assistant|bot|program] are you?"),
    "skills": ("what [can|do|could] you do[ for me| here|]?", "what [are you able to do|are you good at|are your abilities|are your skills|do you know how to do|can I ask you|things can you do|can you help me with]?", "[how|in what way] can you [help|assist] [me|us]?", "[list|show|tell me] [your|what your] [abilities|skills|features|functions|capabilities][ are|].", "[can you help me|help][?|!|]", "which [tools|functions|skills] do you have?", "what are you [for|there for|made for]?"),
    "praise": ("[good|great|nice|well done|excellent|fantastic|amazing|awesome|brilliant|perfect|superb|wonderful][ job| work| answer| one|][!|.|]", "you[ are|'re] [great|the best|amazing|smart|awesome|clever|very helpful|good at this][!|.|]", "[I love it|I like you|that's great|that is correct|that's right|impressive|very good|cool][!|.|]"),
    "sorry": ("[sorry|I'm sorry|my bad|oops|apologies|my apologies|I apologize|pardon me|forgive me][!|.|][ My mistake.|]", "[sorry|oops][,|] [my mistake|wrong button|I mistyped|that was wrong|I meant something else|typo|never mind that]."),
    "human": ("are you [a |an |][human|robot|real person|machine|AI|bot|computer|person|program|man or a machine][?]", "are you [alive|conscious|real|sentient|intelligent]?", "do you [have feelings|sleep|eat|dream|have a body|get tired|have emotions]?", "am I [talking|speaking|chatting] [to|with] a [human|person|robot|machine|bot]?"),
    "fine": ("[ok|okay|alright|all right|fine|got it|I see|understood|sure|yes|no|right|good|makes sense|never mind|nevermind|forget it|no thanks|nothing|that's all|no, that's all|k|hm|hmm|aha|wow|interesting][!|.|]", "[ok|okay|fine|good][,|] [got it|understood|I see|never mind|that's fine|thats all]."),
}  # fmt: skip
ZH: dict[str, tuple[str, ...]] = {
    "hello": ("[你好|您好|嗨|哈喽|嘿|早上好|下午好|晚上好|早|早安|大家好|你好啊|你好呀|hi|hello|在吗|在不在|喂][！|。|~|]", "[你好|您好|嗨|嘿]，[小助手|机器人|助手|朋友|很高兴认识你|在吗|有人吗|又是我][！|？|]"),
    "how": ("[你|您|][最近|今天|近来|这几天|][好吗|怎么样|还好吗|过得怎么样|过得好吗|忙吗|开心吗|心情如何|状态如何][？|]", "[一切|都]还[好|顺利]吗[？|]", "[你好|嗨]，[最近好吗|今天怎么样|过得如何]？", "吃了吗[？|]"),
    "thanks": ("[谢谢|多谢|感谢|谢啦|谢了|十分感谢|太谢谢了|非常感谢|谢谢你|谢谢您|辛苦了|thx|3q][！|。|啦|]", "[谢谢|感谢][你|您]的[帮助|帮忙|回答|耐心][！|。|]", "[太好了|很好|好的|可以了|明白了]，[谢谢|多谢|谢谢你][！|]", "[帮了我大忙|很有帮助|这正是我要的|太有用了][，谢谢|][！|]"),
    "bye": ("[再见|拜拜|拜|回见|晚安|下次见|明天见|回头聊|先这样|886|告辞|走了][！|。|啦|]", "[好的|那|行]，[再见|拜拜|先这样|我先走了|下次聊|我下线了][！|。|]", "我[要走|得走|先走|下班|去睡觉|去忙]了[。|，再见]"),
    "who": ("你[是谁|是什么|叫什么|叫啥|叫什么名字|是哪个模型|是什么模型|是啥][呀|啊|呢|][？|]", "[请|][介绍|说说|讲讲][一下|][你|]自己[吧|。|]", "[怎么|如何]称呼[你|您]？", "[你的|您的]名字[是|][什么|]？", "[我在|这是在][跟|和]谁[说话|聊天]？", "你是[哪种|什么样的][助手|程序|机器人]？"),
    "skills": ("你[会|能|可以][做|干|帮我做|干些|做些][什么|啥|哪些事][？|]", "你有[什么|哪些][功能|本事|能力|技能|用处|工具]？", "你[擅长|精通]什么？", "[说说|介绍一下|列出][你的|你有哪些][功能|本领|能力]", "[能|可以]帮[帮|]我吗[？|]", "你[能|可以]怎么帮我？", "你[是|]用来[干什么|做什么]的？"),
    "praise": ("[真|太|好|很][棒|厉害|聪明|不错|牛|强|好|准][了|啊|！|]", "[干得|做得|答得|回答得][好|漂亮|不错|很好][！|]", "你[真|太|好][聪明|厉害|棒|能干|好用][了|！|]", "[完美|优秀|赞|点赞|答对了|正确|没错][！|]"),
    "sorry": ("[对不起|抱歉|不好意思|我错了|是我弄错了|打错了|说错了|请原谅|我的错][！|。|啊|]", "[对不起|抱歉|不好意思]，[打错了|我弄错了|说错了|点错了|刚才不算]。"),
    "human": ("你是[人|真人|机器人|AI|人工智能|机器|程序|活的|电脑][吗|还是机器|么][？|]", "你有[感情|意识|身体|情绪|生命][吗|么]？", "你[会|要|需要][睡觉|吃饭|累|做梦|休息]吗？", "我在[跟|和][真人|机器人|机器|AI][说话|聊天][吗|]？"),
    "fine": ("[好|好的|行|可以|嗯|嗯嗯|哦|知道了|明白|明白了|懂了|了解|收到|没事|没事了|算了|不用了|不必了|是的|对|不|没有了|就这样|好吧|OK|ok|原来如此][。|！|]", "[好的|嗯|哦]，[知道了|明白了|没事了|就这样|不用了]。"),
}  # fmt: skip
FINE = {"en": "All right. Tell me if you need anything.", "zh": "好的，有需要请告诉我。"}
EN_BEYOND = {
    "what": (),
    "do": ("[write|compose|make up|tell] [a|me a] [poem|story|song|haiku|joke|riddle|fairy tale|limerick] about [a |the |]{n}", "[tell|sing|read] me a [joke|story|song|riddle|fun fact|secret]", "[write|draft] [a letter|an essay|an email|a speech|a review] about {n}", "[paint|draw|sketch|design] a {n}[ for me|]", "sing a song", "make me laugh", "[write|fix|explain] [some|my|this] [code|python code|program|script|function]", "[recommend|suggest] a [book|movie|film|restaurant|game] about {n}", "give me [some |][advice|tips] [about|on] {n}", "[order|buy|cook|bring] me a {n}", "[call|phone|text] {m}", "turn [on|off] the [lamp|heating|TV|lights]", "[open|close] the [door|window|garage]", "play [some|a bit of] music", "[explain|describe] [a |the |]{n} [to me|in simple words|]", "dance", "guess what I am thinking"),
    "tell": ("What do you think [about|of] {n}?", "Do you [like|love|hate|know] {n}?", "What's your [favorite|favourite] [food|color|film|book|animal|song|sport]?", "Should I [buy|sell|learn|cook|marry] [a |the |]{n}?", "[I am|I'm] [bored|sad|happy|tired|hungry|in love|lonely|angry][.|!|]", "I [like|love|hate] {n}.", "[What's|What is] the meaning of life?", "Can you [sing|dance|cook|drive|see me|hear me|keep a secret]?", "Which is better, {n} or {n}?", "How do I [become|stay|get] [rich|happy|healthy|famous]?", "Tell me something [nice|interesting|funny|new]."),
}  # fmt: skip
ZH_BEYOND = {
    "what": (),
    "do": ("[写|作|编|讲][一首|一个|个|首][诗|故事|笑话|歌|童话|谜语]", "[写|作]一首关于{n}的[诗|歌]", "讲[个|一个][关于{n}的|][故事|笑话|冷笑话]", "唱[首歌|一首歌]", "画[一个|一张|个]{n}", "写[一篇|篇|一封|封][作文|邮件|信|文章|演讲稿]", "[推荐|介绍][一本|一部|个][书|电影|餐厅|游戏]", "[写|改|解释][一段|这段|一下][代码|程序|脚本]", "给我[一些|点][建议|意见]", "[买|点|做|带]一个{n}[给我|]", "给{m}打[个|]电话", "[打开|关掉|关闭][灯|空调|电视|窗户|门]", "放[点|首]音乐", "[解释|说明]一下{n}", "逗我笑", "陪我聊[会儿天|聊|天]"),
    "tell": ("你[觉得|认为]{n}怎么样？", "你[喜欢|讨厌|知道|了解]{n}吗？", "你最喜欢[什么颜色|什么吃的|哪部电影|哪本书|什么动物]？", "我[该不该|要不要]买{n}？", "为什么{n}[这么|那么]{a}？", "我[好|很|有点][无聊|难过|开心|累|饿|困|孤单|生气]。", "我[喜欢|讨厌|爱]{n}。", "人生的意义是什么？", "你会[唱歌|跳舞|做饭|开车|保密]吗？", "{n}和{n}哪个好？", "怎么[变富|变开心|保持健康|出名]？", "说点[有趣|好玩|新鲜|好听]的。"),
}  # fmt: skip
BEYOND = {
    "en": "I cannot do that. I can calculate, convert units, work with dates, remember things and search the web.",
    "zh": "这个我做不到。我能计算、换算单位、处理日期、记住信息和搜索网页。",
}
AVOID = frozenset(
    normal(text) for table in (greetings.EN, greetings.ZH) for said, _ in table.values() for i, text in enumerate(said) if is_withheld(i)
)  # fmt: skip


def small_talk(rng: Random, language: Language, withheld: bool) -> Chat:
    """A greeting or the like and its one answer."""
    table = EN if language == "en" else ZH
    kind = rng.choice(tuple(table))
    template = say(rng, language, lambda: rng.choice(table[kind]), AVOID, withheld)
    text = roughen(rng, language, template) or template
    known = greetings.EN if language == "en" else greetings.ZH
    answer = known[kind][1] if kind in known else FINE[language]
    return Chat(text, f"wide/greetings/{kind}", answer, answer)


def beyond(rng: Random, language: Language, withheld: bool) -> Chat:
    """A request that no tool serves and that a small model cannot meet, and the one answer to all of them."""
    ways = EN_BEYOND if language == "en" else ZH_BEYOND
    adjective = (
        rng.choice(words.EN_ADJECTIVES)
        if language == "en"
        else rng.choice(("贵", "大", "小", "难", "快", "慢", "有名", "便宜"))
    )
    slots = {
        "n": words.noun(rng, language) if rng.random() < 0.5 else lexicon.wild(rng, language),
        "m": words.name(rng, language),
        "a": adjective,
    }
    template = say(rng, language, lambda: framed(rng, language, ways), AVOID, withheld)
    return Chat(dress_up(rng, language, template, False, **slots), "wide/beyond", BEYOND[language], BEYOND[language])
