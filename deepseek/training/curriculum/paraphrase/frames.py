"""Everyday ways to ask for a quantity (``<x>``, a noun phrase) or for something to be done (``<do>``, an imperative)."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from deepseek.training.curriculum.sample import Language

Ways = Mapping[str, tuple[str, ...]]
"""Patterns for one operation: `what` (noun phrases), `do` (imperatives), `tell` (whole texts)."""
Table = Mapping[str, Ways]

EN_WHAT = (
    "[what is|what's|whats|how much is|how much's] <x>?", "[what is|what's] <x> [please|exactly|in total|then]?", "[what does|how much does] <x> [equal|come to|make|give|amount to|come out to|work out to]?",
    "[can|could|would|will] you [please|] [tell me|work out|calculate|compute|figure out|find|give me|get me|check|determine|do] <x>[ for me|][, please|]?",
    "[please|kindly|pls|] [calculate|compute|work out|figure out|evaluate|find|determine|get|solve|calc|do] <x>[ for me|][, please|].", "[calculate|compute|work out|figure out|evaluate|find|calc|solve|quick calc][:|] <x>",
    "I [need|want|would like|wish|have] to [know|find out|calculate|compute|work out|figure out] <x>.", "I'd like to [know|find out] [what|how much] <x> [is|makes|comes to].", "I [need|want] [the answer to|the result of|the value of|you to calculate|you to work out|] <x>.",
    "[do you know|any idea|got any idea|do you happen to know|can you say|could you tell me|tell me|I wonder|I was wondering|please tell me] [what|how much] <x> [is|comes to|equals|makes]?",
    "<x> [equals|is|makes|gives|comes to] [what|how much]?", "<x>", "<x>?", "<x>[,|] please", "<x> = ?", "<x> =", "[tell me|show me|give me|let me know|let me have|find me|get me] <x>[, please|].", "[let's|help me] [calculate|figure out|work out|compute|find] <x>.",
    "[quickly|quick|hey|ok|so|now|then][,|] [what's|what is|how much is] <x>?", "I'm [trying to|supposed to|having trouble to] [work out|calculate|figure out|find] <x>.", "[what would|what will|how much would|what might] <x> be?",
    "My [calculator|phone|abacus] [broke|is dead|is gone|is flat][, |. ]what is <x>?", "[what|how much] do [you|I|we] get [if you compute|when you work out|for|if I calculate|from] <x>?", "[use|with|using] [the|a|your] [calculator|tool|tools][ and|,| to] [find|get|compute|tell me|work out] <x>.",
    "What's the [answer to|result of|value of|outcome of] <x>?", "[the|] [answer|result|value] of <x>[, please|]?", "[could|can] [I|we] [get|have] <x>[ please|]?", "I [can't|cannot|couldn't] [work out|figure out|do|calculate] <x>[ in my head|].", "How [do I|would you|can I] [calculate|compute|work out] <x>?",
    "[say|so][,|] how much is <x>?", "[need|want] <x>[ asap| now| please|]", "[math|maths] question: [what is|] <x>?", "Someone asked me [what|how much] <x> is.", "[is there a way to|would it be possible to|are you able to] [calculate|work out|compute|find] <x>?",
)  # fmt: skip
EN_DO = (
    "<do>.", "<do>", "[please|kindly|pls|plz] <do>.", "<do>[, please| please| for me| for me please| thanks].", "[can|could|would|will] you [please|] <do>[ for me|][, please|]?", "I [want|need|would like|'d like] you to <do>.", "[help me|let's|now|ok|next|go ahead and|just|simply|I need to|I want to|I have to|I'd like to|I'm trying to] <do>.",
    "[would|could] it be possible to <do>?", "[how about you|why don't you|you should|time to|be so kind as to|do me a favor and|do me a favour and|be a dear and|mind if I ask you to|your task is to|your job is to] <do>.", "[would|do] you mind: <do>?", "[task|todo|request|job]: <do>", "Use [the|a|your] [tool|tools|right tool] [and|to] <do>.", "[are you able to|is it possible to|can I ask you to|might I ask you to|any chance you could] <do>?",
)  # fmt: skip
ZH_WHAT = (
    "[请问|问一下|我想问|想问下|]<x>[等于|是|得|有|合计是|]多少[？|呢？|啊？|呀|]", "[请|帮我|请帮我|麻烦|麻烦你|给我|替我|帮忙|劳驾|快帮我|来|][算一下|算算|计算|计算一下|求一下|算|算出|求|算一算|口算|核算一下]<x>[。|吧|，谢谢|]", "<x>", "<x>？", "<x>=[？|?|]", "<x>[是几|等于几|是啥|得几|结果是多少|等于多少来着|一共多少|多少|到底是多少|该是多少]？",
    "[我想知道|告诉我|我要知道|请告诉我|说说|我需要知道|帮我看看|帮我查查]<x>[是多少|等于多少|的结果|等于几|]。", "[你知道|知不知道|你能告诉我|能告诉我|可以告诉我|能说说|谁知道]<x>[是多少|等于多少|等于几][吗|]？", "[能不能|可以|能|可不可以|能否|是否可以][请你|麻烦你|]帮我[算|计算|算一下|算算|求][一下|]<x>[吗|]？", "<x>[怎么算|该怎么算|咋算]？",
    "<x>的[答案|结果|值|得数][是什么|是多少|呢|是啥]？", "[用|拿]计算器[算|算一下|算算]<x>。", "[我算不出|算不来|我不会算|帮我口算|我口算不出]<x>[，|。][帮帮我|你来算|是多少？|帮忙算一下]", "[给我|我要|我需要|发我|报一下]<x>[的结果|的答案|的值]。", "[数学题|题目|算术题|作业|问题][：|，]<x>[等于多少|是多少|]？", "[要是|如果]算<x>[，|][结果|答案|会]是多少？", "<x>[会|应该|大概][是|等于]多少？", "[来道题|考考你|问你][，|：]<x>[是多少|等于几]？", "[那|那么|然后|接着|现在]<x>呢？",
)  # fmt: skip
ZH_DO = (
    "<do>[。|]", "[请|请你|麻烦|麻烦你|帮我|请帮我|帮忙|替我|给我|劳驾|拜托]<do>[。|，谢谢|一下|吧|]", "[能不能|可以|能|可不可以|能否|可否][请你|麻烦你|][帮我|]<do>[吗|]？", "[我想|我要|我需要|我想让你|我希望你|现在|接下来|下一步|先|你来|你去|快|赶紧|马上|直接|顺便][帮我|]<do>[。|]", "[任务|需求|要求][：|是]<do>", "<do>[好吗|行吗|可以吗|行不行|怎么样]？", "用[工具|合适的工具]<do>。",
)  # fmt: skip


def framed(rng: Random, language: Language, ways: Ways, weights: tuple[float, float, float] = (5, 3, 3)) -> str:
    """A pattern of a whole text: a quantity in a frame, an imperative in a frame, or a text as it stands."""
    weighted = {kind: weight for kind, weight in zip(("what", "do", "tell"), weights, strict=True) if ways[kind]}
    kind = rng.choices(tuple(weighted), tuple(weighted.values()))[0]
    chosen = rng.choice(ways[kind])
    if kind == "tell":
        return chosen
    what, do = (EN_WHAT, EN_DO) if language == "en" else (ZH_WHAT, ZH_DO)
    return rng.choice(what).replace("<x>", chosen) if kind == "what" else rng.choice(do).replace("<do>", chosen)
