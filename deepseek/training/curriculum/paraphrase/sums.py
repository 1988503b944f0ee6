"""Arithmetic and percentages, as everybody asks: quantities in frames, imperatives, little stories.

Expressions keep the order of the numbers as they are said, except where the words turn it round (subtract b from a).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from random import Random

from deepseek.training.curriculum import arithmetic, percentages, words
from deepseek.training.curriculum.arithmetic import apply, plain
from deepseek.training.curriculum.paraphrase import numbers
from deepseek.training.curriculum.paraphrase.frames import Table, framed
from deepseek.training.curriculum.paraphrase.grammar import dress_up, full_width, normal, say
from deepseek.training.curriculum.phrasing import Ask, is_withheld
from deepseek.training.curriculum.sample import Language

# operation: what (noun phrases), do (imperatives), tell (whole texts)
EN: Table = {
    "+": {
        "what": ("{a} plus {b}", "{a} and {b} [together|combined|added together|added up|in total|]", "the sum of {a} and {b}", "[the total of|the addition of] {a} and {b}", "{a} added to {b}", "adding {a} and {b}", "{a} + {b}", "{a}+{b}"),
        "do": ("add {a} and {b}[ together| up|]", "add {a} to {b}", "sum {a} and {b}", "sum up {a} and {b}", "put {a} and {b} together", "total {a} and {b}", "find the sum of {a} and {b}", "increase {a} by {b}"),
        "tell": ("I [have|own|had] {a} [apples|coins|books|euros|stickers|points] and [get|buy|find|receive|win|earn] {b} more. How many [do I have|is that|are there][ now| in total|]?", "[There are|We have] {a} [boys|men|cats|cars] and {b} [girls|women|dogs|bikes][. |, ]how many [in all|altogether|in total]?", "[A|One] [costs|weighs] {a} and [the other|another] {b}, [what|how much] [together|in total]?", "One [bill|invoice|item] is {a}, the other {b}. [What's the total|How much altogether|Sum]?", "Yesterday I [spent|walked|ran|sold] {a} and today {b}. [Total|How much in total|What is the sum]?", "What number is {b} [more|greater|bigger] than {a}?"),
    },
    "-": {
        "what": ("{a} minus {b}", "{a} less {b}", "{a} take away {b}", "the difference [between|of] {a} and {b}", "{a} - {b}", "{a}-{b}", "{a} without {b}", "{a} reduced by {b}", "{a} subtract {b}", "{a} decreased by {b}"),
        "do": ("subtract {b} from {a}", "take {b} [away from|from|off] {a}", "deduct {b} from {a}", "reduce {a} by {b}", "lower {a} by {b}", "remove {b} from {a}", "start [with|at] {a} and [take away|subtract] {b}"),
        "tell": ("I [had|have|earned|got] {a} [apples|euros|dollars|points] and [spent|lost|gave away|ate|paid|used] {b}. [How much|How many|What] [is left|remains|do I have left|are left]?", "[A tank|The box|My account|A jar] [holds|has|contains] {a}[, |; |. ]{b} [are|is] [taken out|gone|used]. [What remains|What's left|How much is left]?", "How much [bigger|larger|more|greater|higher] is {a} than {b}?", "From {a} take {b}, what [remains|is left]?", "[By how much|How much] does {a} exceed {b}?", "The [goal|target|price] is {a} and I have {b}. How much [is missing|more do I need]?", "What number is {b} [less|smaller] than {a}?"),
    },
    "*": {
        "what": ("{a} times {b}", "{a} multiplied by {b}", "the product of {a} and {b}", "{a} by {b}", "{a} x {b}", "{a} * {b}", "{a}*{b}", "{a}x{b}", "{a} × {b}", "{a} lots of {b}", "{a} multiplied with {b}"),
        "do": ("multiply {a} [by|and|with|times] {b}", "find the product of {a} and {b}", "take {a} times {b}", "do {a} times {b}"),
        "tell": ("I buy {a} [boxes|packs|bags|crates] [of|with|containing] {b} [eggs|pieces|pens|cookies][ each|]. How many [in total|altogether|is that|do I have]?", "[There are|We have] {a} [rows|tables|shelves|buses] [of|with] {b} [seats|chairs|books|people][ each|][. |, ]how many [in all|in total|altogether]?", "[A ticket|One pizza|Each shirt|One] costs {b}. [What do|How much do|How much are] {a} [cost|come to|of them]?", "{a} [people|workers|friends] [pay|give|get|earn] {b} each[. |, ]what is the total?", "If [one hour|a day|a kilo] costs {b}, how much [are|is|do I pay for] {a}?", "What is {b} {a} times over?", "[I earn|He saves|She makes] {b} a [week|month|day]. How much in {a} [weeks|months|days]?"),
    },
    "/": {
        "what": ("{a} divided by {b}", "{a} over {b}", "the quotient of {a} and {b}", "{a} / {b}", "{a}/{b}", "{a} ÷ {b}", "{a} split [by|into|among] {b}", "{a} shared by {b}", "{a} divided into {b} parts"),
        "do": ("divide {a} by {b}", "split {a} [into|between|among|by] {b}[ people| ways| parts| equal parts|]", "share {a} [among|between] {b}[ people| friends| kids|]", "find the quotient of {a} and {b}"),
        "tell": ("{b} [friends|people|kids|workers] share {a} [equally|evenly|fairly][. |, ]how much [each|does each get|per person]?", "I [cut|split|divide] {a} into {b} [pieces|parts|equal parts]. How [big|much|long] is [each|one]?", "[The bill is|We owe|It costs] {a} and we are {b}[ people|]. How much [each|per person|does everyone pay]?", "How many times does {b} [go|fit] into {a}?", "{a} [sweets|coins|euros] for {b} [children|people], how many [each|per child|per head]?", "{a} [km|miles|pages] in {b} [hours|days], how [many|much] per [hour|day]?"),
    },
    "**": {
        "what": ("{a} to the power [of|] {b}", "{a} raised to {b}", "{a} raised to the power [of|] {b}", "{a} ^ {b}", "{a}^{b}", "{a} ** {b}", "{a}**{b}", "{a} to the {b}th[ power|]", "the {b}th power of {a}"),
        "do": ("raise {a} to [the power of|the power|] {b}", "take {a} to the power of {b}", "raise {a} to the {b}th power"),
        "tell": ("What [happens|do I get] if I raise {a} to the power of {b}?",),
    },
    "square": {"what": ("{a} squared", "the square of {a}", "{a} to the second power", "{a} times itself"), "do": ("square {a}", "square the number {a}"), "tell": ("A square has sides of {a}. What is its area?",)},
    "cube": {"what": ("{a} cubed", "the cube of {a}", "{a} to the third power"), "do": ("cube {a}",), "tell": ("A cube has edges of {a}. What is its volume?",)},
    "sqrt": {"what": ("the square root of {a}", "square root of {a}", "sqrt({a})", "sqrt {a}", "√{a}", "the root of {a}", "sqrt of {a}"), "do": ("take the square root of {a}", "find the [square root|root] of {a}", "extract the square root of {a}"), "tell": ("Which number squared is {a}?", "A square has an area of {a}. How long is its side?")},
    "half": {"what": ("half of {a}", "a half of {a}", "one half of {a}", "half {a}"), "do": ("halve {a}", "cut {a} in half", "split {a} in half", "divide {a} in two"), "tell": ()},
    "double": {"what": ("double {a}", "twice {a}", "two times {a}", "the double of {a}"), "do": ("double {a}", "double the number {a}"), "tell": ()},
    "triple": {"what": ("triple {a}", "three times {a}", "thrice {a}"), "do": ("triple {a}",), "tell": ()},
    "third": {"what": ("a third of {a}", "one third of {a}"), "do": ("divide {a} in three",), "tell": ()},
    "quarter": {"what": ("a quarter of {a}", "one quarter of {a}", "a fourth of {a}"), "do": (), "tell": ()},
    "mod": {"what": ("{a} mod {b}", "{a} modulo {b}", "the remainder of {a} [divided by|over] {b}", "{a} % {b}", "the remainder when {a} is divided by {b}"), "do": ("find the remainder of {a} divided by {b}",), "tell": ("What is left over when I divide {a} by {b}?",)},
    "list": {"what": ("the sum of {l}", "the total of {l}", "{l} [together|in total|all together|added up]", "{p}"), "do": ("add {l}[ up| together|]", "sum {l}[ up|]", "add up {l}", "total {l}", "sum up {l}"), "tell": ("I [spent|paid|bought things for] {l}. [What's the total|How much in total|How much altogether|Total]?", "My [scores|bills|expenses|numbers] are {l}. [What's the sum|Add them up|What do they add up to]?")},
    "mean": {"what": ("the [average|mean] of {l}", "the arithmetic mean of {l}"), "do": ("average {l}", "find the [mean|average] of {l}", "take the average of {l}"), "tell": ("My [scores|grades|marks] are {l}. What's [the|my] average?",)},
    "any": {"what": ("{e}", "{e}", "the result of {e}", "the value of {e}", "the expression {e}", "the following: {e}", "this: {e}"), "do": ("[evaluate|solve|compute|calculate|simplify|do|run|crunch|work through] {e}", "[evaluate|solve|compute|calculate|do] [this|the following|this sum|the expression|this expression|this one][:|] {e}", "[put|type|enter] {e} into [the|a|your] calculator"), "tell": ("{e}", "{e} = ?", "{e}=?", "{e}=", "{e} ?", "[solve|calc|math|maths|compute|sum]: {e}", "{e} [answer|result|value][?| please]", "[Is|Would] {e} [a lot|much]? [Calculate it|How much is it].", "I typed {e}, what [comes out|is the result|should come out]?", "[Homework|Exercise|Question|Problem]: {e}[. What's the answer?| = ?|]")},
}  # fmt: skip
ZH: Table = {
    "+": {
        "what": ("{a}加{b}", "{a}加上{b}", "{a}[和|与|跟]{b}的和", "{a}[和|跟|与]{b}加起来", "{a}再加{b}", "{a}[和|跟]{b}[一共|总共|合计|合起来]", "{a}＋{b}", "{a}+{b}"),
        "do": ("把{a}[和|跟|与]{b}[加起来|相加|加在一起]", "将{a}[和|与]{b}相加", "给{a}加上{b}", "算{a}加{b}", "求{a}[和|与]{b}的[和|总和]", "在{a}上加{b}", "合计{a}和{b}"),
        "tell": ("我有{a}[个苹果|块钱|本书|元|张卡]，[又|再|后来又][得到|买了|拿到|赚了]{b}[个|]，[现在|一共|总共][有多少|多少|是几个]？", "[班里|公司]有{a}个男[生|人]和{b}个女[生|人]，[一共|总共]多少人？", "昨天[花了|走了|卖了]{a}，今天{b}，[一共|总共|合计]多少？", "比{a}[大|多]{b}的[数|]是多少？", "一件{a}元，一件{b}元，[加起来|一共]多少钱？"),
    },
    "-": {
        "what": ("{a}减{b}", "{a}减去{b}", "{a}[和|与|跟]{b}的差", "{a}减掉{b}", "{a}-{b}", "{a}－{b}", "{a}比{b}多", "{a}扣除{b}", "{a}去掉{b}"),
        "do": ("从{a}[里|中|]减去{b}", "从{a}[里|中]扣[掉|除]{b}", "用{a}减{b}", "求{a}[和|与]{b}的差", "把{a}减少{b}", "算{a}减{b}", "拿{a}减去{b}"),
        "tell": ("我有{a}[元|块钱|个苹果|块]，[花了|用了|吃了|丢了|给了别人|付了]{b}[元|个|]，[还剩|剩下|还有|剩]多少？", "{a}比{b}[大|多][多少|几]？", "{b}比{a}[小|少][多少|几]？", "目标{a}，已完成{b}，[还差|还剩]多少？", "一共{a}，[拿走|去掉|用掉]{b}，[剩|还剩|剩下]多少？", "比{a}[小|少]{b}的[数|]是多少？"),
    },
    "*": {
        "what": ("{a}乘{b}", "{a}乘以{b}", "{a}[和|与]{b}的[积|乘积]", "{a}的{b}倍", "{a}×{b}", "{a}x{b}", "{a}*{b}", "{a}[和|跟|与]{b}相乘"),
        "do": ("把{a}[和|跟|与]{b}[相乘|乘起来]", "将{a}[扩大|放大]{b}倍", "用{a}乘{b}", "求{a}[和|与]{b}的[积|乘积]", "算{a}乘{b}", "拿{a}乘以{b}"),
        "tell": ("[每箱|每盒|每包|每袋|一盒]{a}[个|支|块]，{b}[箱|盒|包|袋][，|][一共|总共|共][多少|有多少][个|]？", "[单价|一个|一件|每张|每本]{a}[元|块|块钱]，[买|要]{b}[个|件|张|本][，|][多少钱|要多少钱|一共多少钱|总价多少]？", "{a}[排|行]，每[排|行]{b}[个|个座位|人]，[一共|共]多少？", "每[天|月|周][赚|存|挣]{a}[元|]，{b}[天|个月|周][一共|]多少？", "{a}个人每人{b}[元|个]，[一共|总共]多少？"),
    },
    "/": {
        "what": ("{a}除以{b}", "{a}[和|与]{b}的商", "{a}÷{b}", "{a}/{b}", "{a}被{b}除", "{a}的{b}分之一", "{a}平分成{b}份"),
        "do": ("把{a}[平均|平|均匀|]分[成|给]{b}[份|个人|人]", "用{a}除以{b}", "求{a}[和|与]{b}的商", "将{a}除以{b}", "算{a}除以{b}", "拿{a}除以{b}"),
        "tell": ("{a}[个苹果|颗糖|元|块钱]{b}个人[分|平分]，[每人|一人][多少|几个|得多少|能分多少]？", "{b}个人[AA|平摊|分摊|均摊]{a}[元|块|]，[每人|一人][多少|付多少]？", "{a}里[有|面有][几|多少]个{b}？", "{b}天[走|看|做]了{a}，平均每天多少？", "一共{a}，分{b}份，每份多少？"),
    },
    "**": {"what": ("{a}的{b}次方", "{a}的{b}次幂", "{a}^{b}", "{a}**{b}"), "do": ("把{a}乘{b}次方", "求{a}的{b}次[方|幂]", "算{a}的{b}次方"), "tell": ()},
    "square": {"what": ("{a}的平方", "{a}平方", "{a}的二次方"), "do": ("把{a}平方", "求{a}的平方"), "tell": ("正方形边长{a}，面积是多少？",)},
    "cube": {"what": ("{a}的立方", "{a}的三次方", "{a}立方"), "do": ("求{a}的立方",), "tell": ("正方体棱长{a}，体积是多少？",)},
    "sqrt": {"what": ("{a}的平方根", "根号{a}", "√{a}", "{a}开平方", "{a}开根号", "sqrt({a})"), "do": ("把{a}开[平方|根号]", "求{a}的平方根", "给{a}开根号"), "tell": ("正方形面积{a}，边长多少？", "哪个数的平方是{a}？")},
    "half": {"what": ("{a}的一半", "{a}的二分之一", "半个{a}"), "do": ("把{a}[减半|对半分|分成两半]",), "tell": ()},
    "double": {"what": ("{a}的两倍", "{a}的二倍", "{a}翻倍", "两倍的{a}"), "do": ("把{a}[翻倍|翻一番|加倍]",), "tell": ()},
    "triple": {"what": ("{a}的三倍", "三倍的{a}"), "do": ("把{a}变成三倍",), "tell": ()},
    "third": {"what": ("{a}的三分之一",), "do": ("把{a}分成三份",), "tell": ()},
    "quarter": {"what": ("{a}的四分之一",), "do": ("把{a}分成四份",), "tell": ()},
    "mod": {"what": ("{a}除以{b}的余数", "{a}模{b}", "{a}对{b}取余", "{a}%{b}的余数", "{a} mod {b}"), "do": ("求{a}除以{b}的余数",), "tell": ("{a}除以{b}余[多少|几]？",)},
    "list": {"what": ("{l}的[和|总和|合计]", "{l}[加起来|一共|总共|加在一起|相加]", "{p}"), "do": ("把{l}[加起来|相加|加在一起]", "求{l}的[和|总和]", "合计{l}"), "tell": ("我[花了|买东西花了|分别付了]{l}[元|]，[一共|总共]多少？", "成绩是{l}，总分多少？")},
    "mean": {"what": ("{l}的[平均数|平均值|平均|均值]",), "do": ("求{l}的平均[数|值]", "算{l}的平均[数|值]", "把{l}平均一下"), "tell": ("成绩[是|分别是]{l}，平均分[多少|是多少]？", "{l}平均[是多少|下来多少]？")},
    "any": {"what": ("{e}", "{e}", "算式{e}", "这个：{e}", "{e}这道题", "表达式{e}"), "do": ("[计算|算|求|算出|解|口算]{e}", "[算一下|算算|计算一下]{e}", "[计算|求|算]下[面|列][的算式|这个式子|][：|]{e}", "把{e}[算出来|算一算|输入计算器]"), "tell": ("{e}", "{e}=？", "{e}=?", "{e}=", "{e} =", "[算|求|计算|解]：{e}", "{e}[得|等于][几|多少][啊|呀|]", "{e}[结果|答案]？")},
}  # fmt: skip

EN_PERCENT: Table = {
    "of": {
        "what": ("{p}% of {n}", "{p} percent of {n}", "{p} % of {n}", "{p} per cent of {n}", "{p} pct of {n}"),
        "do": ("take {p}% of {n}", "find {p} percent of {n}", "get {p}% of {n}"),
        "tell": ("[The|Our|My] [bill|check|dinner|meal] [is|was|came to] {n}[. |, ][how much is|what's|what is|give me] a {p}[%| percent] tip?", "How much [tip|commission|tax|interest|VAT|deposit] is {p}[%| percent] [of|on|for] {n}?", "I get {p}% [commission|interest|cashback] on {n}[. |, ]how much [is that|do I get]?", "{p}% [tip|tax|VAT|interest|fee] on {n}?", "{n} people [voted|came|answered] and {p}% [said yes|agreed|stayed]. How many [is that|are they|people]?", "If {n} is 100%, what is {p}%?", "Tip {p}[%| percent] on {n}", "What's the {p}% [tax|tip|share|fee] on {n}?", "A deposit of {p}% on {n} is how much?"),
    },
    "more": {
        "what": ("{n} plus {p}%", "{n} plus {p} percent", "{n} increased by {p}[%| percent]", "{n} [with|including] {p}% [tax|VAT|tip|extra]", "{n} after a {p}[%| percent] [increase|rise|raise|markup]", "{n} plus {p}% [tax|tip|VAT]", "{p}% more than {n}", "{n} and {p}% on top"),
        "do": ("add {p}[%| percent] to {n}", "increase {n} by {p}[%| percent]", "raise {n} by {p}%", "put {p}% on top of {n}", "mark up {n} by {p}%", "add {p}% [tax|VAT|tip] to {n}"),
        "tell": ("[A|My|The] [salary|rent|price|wage] of {n} [rises|goes up|grows|increases] by {p}[%| percent][. |, ][what is it now|what's the new one|how much is it now]?", "[It|The price] [was|is] {n} [and went|and goes] up {p}%[. |, ]what is [it|the price] now?", "The [net |]price is {n}, [tax|VAT] is {p}%. [What do I pay|What's the total|Total]?", "[I earn|She earns] {n} and get a {p}% raise[. |, ]what's [my|the] new salary?"),
    },
    "less": {
        "what": ("{n} minus {p}%", "{n} less {p} percent", "{n} [reduced|decreased] by {p}[%| percent]", "{n} after a {p}[%| percent] [discount|reduction|cut]", "{n} with {p}% off", "{p}% off {n}", "{p}% less than {n}", "{p}% off of {n}"),
        "do": ("take {p}[%| percent] off [of |]{n}", "reduce {n} by {p}[%| percent]", "decrease {n} by {p}%", "apply a {p}% discount to {n}", "knock {p}% off {n}", "subtract {p}% from {n}", "discount {n} by {p}%"),
        "tell": ("[A|The] [jacket|phone|shirt|bike|laptop|book] [costs|is] {n} [and is|with|, now] {p}% off[. |, ][what's the final price|what do I pay|how much is it now|what does it cost]?", "The [price|value] [fell|drops|dropped|falls] by {p}% from {n}. [What is it now|New price]?", "There's a {p}% [sale|discount] on a {n} [coat|item|ticket][. |, ][how much do I pay|final price|what's the price]?", "Original price {n}, discount {p}%. [Final price|What do I pay]?", "I have a {p}% coupon for something that costs {n}. What do I pay?"),
    },
    "share": {
        "what": ("{a} as a percentage of {b}", "{a} out of {b} in percent", "the percentage of {a} in {b}", "{a} of {b} as a percent"),
        "do": ("express {a} as a [percentage|percent] of {b}", "convert {a} out of {b} to [a percentage|percent]", "turn {a}/{b} into a percentage"),
        "tell": ("What [percent|percentage] of {b} is {a}?", "{a} is what [percent|percentage|%] of {b}?", "What [percent|percentage] is {a} [of|out of] {b}?", "I [got|scored|had] {a} [out of|of] {b} [points|right|on the test|marks|]. [What percentage|How many percent] is that?", "{a} [of|out of] {b} [people|students|voters|tests] [came|passed|agreed|failed]. [What percent|What percentage|How many percent]?", "How many percent of {b} [is|are] {a}?", "[I've read|I walked|We finished] {a} of {b} [pages|km|tasks][. |, ]what percentage is [that|done]?"),
    },
}  # fmt: skip
ZH_PERCENT: Table = {
    "of": {"what": ("{n}的{p}%", "{n}的百分之{p}", "{n}的百分之{p}"), "do": ("求{n}的{p}%", "取{n}的百分之{p}", "算{n}的{p}%"), "tell": ("[账单|饭钱|消费]{n}[元|块|]，[给|付|]{p}%[的|]小费[是|][多少|多少钱]？", "{n}[元|]的{p}%[税|利息|提成|手续费|定金][是|]多少？", "[收入|销售额|工资]{n}[元|]，[按|]{p}%[交税|提成|扣税][，|]是多少？", "[本金|存款]{n}[元|]，[年利率|利率|利息]{p}%，利息多少？", "{n}[人|个人][里|中|]有{p}%[同意|来了|及格]，[是|]多少人？", "{p}%的{n}是多少？")},
    "more": {"what": ("{n}加{p}%", "{n}增加百分之{p}", "{n}上涨{p}%后", "{n}涨{p}%", "比{n}多{p}%的数", "{n}加上{p}%的[税|小费]"), "do": ("把{n}[增加|提高|上调|涨]{p}%", "给{n}加{p}%", "将{n}提高百分之{p}"), "tell": ("[工资|房租|价格|月薪]{n}[元|]，[涨了|上涨|涨|增加|提高]{p}%，[现在|之后|后来][是|][多少|多少钱]？", "[原价|价格]{n}[元|]，[另加|加|再加]{p}%[税|的税]，[一共|总共|要付]多少？", "{n}涨[了|]百分之{p}是多少？")},
    "less": {"what": ("{n}减{p}%", "{n}减少百分之{p}", "{n}下降{p}%后", "{n}降{p}%", "比{n}少{p}%的数", "{n}打掉{p}%"), "do": ("把{n}[减少|降低|下调|降]{p}%", "从{n}[里|中]减{p}%", "将{n}降低百分之{p}"), "tell": ("[原价|价格|定价|标价]{n}[元|块|]，[便宜|降价|优惠|降|减]{p}%，[现在|现价|实付|折后][是|][多少|多少钱]？", "{n}[元|]的[衣服|手机|书|商品][优惠|降价|便宜]{p}%，[要付|实付|付]多少？", "{n}[跌了|下跌]百分之{p}[后|][是|]多少？")},
    "share": {"what": ("{a}占{b}的百分比", "{a}占{b}的比例[（百分比）|]"), "do": ("求{a}占{b}的百分[比|之几]", "把{a}/{b}换成百分比"), "tell": ("{a}[是|占]{b}的百分之[几|多少]？", "{b}[人|题|个|分][里|中|]{a}[人|题|个|分][占|是]百分之[几|多少]？", "[满分|总共|一共]{b}，[得了|完成|考了]{a}，[百分之几|百分比是多少|占百分之几]？", "{a}占{b}多少[%|百分比]？")},
}  # fmt: skip


def _trained_away() -> frozenset[str]:
    """The basic phrasings that are withheld, which no reading of a pattern may be."""
    groups = (
        arithmetic.EN_ANY, arithmetic.ZH_ANY, *arithmetic.EN_BY_SIGN.values(), *arithmetic.ZH_BY_SIGN.values(),
        *percentages.EN.values(), *percentages.ZH.values(),
    )  # fmt: skip
    return frozenset(normal(text) for group in groups for i, text in enumerate(group) if is_withheld(i))


AVOID = _trained_away()


def arithmetic_ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """Any arithmetic a calculator does in one expression."""
    table = EN if language == "en" else ZH
    form = rng.choices(
        ("+", "-", "*", "/", "**", "square", "cube", "sqrt", "half", "double", "triple", "third", "quarter", "mod", "list", "mean", "any"),
        (14, 14, 14, 14, 5, 3, 1.5, 4, 2, 2, 1, 1, 1, 2, 4, 3, 18),
    )[0]  # fmt: skip
    slots, expression, value = _fill(rng, language, form)
    template = say(rng, language, lambda: framed(rng, language, table[form]), AVOID, withheld)
    text = dress_up(rng, language, template, bare, **slots)
    result = plain(value, 10)
    return Ask(
        text,
        f"wide/arithmetic/{form}",
        "calculate",
        {"expression": expression},
        result,
        f"{expression} = {result}",
        result,
    )


def _fill(rng: Random, language: Language, form: str) -> tuple[dict[str, str], str, Decimal]:
    """Slots, the expression, and its value."""
    if form == "any":
        expression, value = arithmetic.three(rng) if rng.random() < 0.5 else _longer(rng)
        return {"e": full_width(rng, arithmetic.in_signs(rng, expression), 0.03)}, expression, value
    if form in ("list", "mean"):
        found = [
            numbers.everyday(rng, 4, 0.15)
            for _ in range(rng.choice((2, 3, 3, 4, 5)) if form == "mean" else rng.choice((3, 3, 4, 5)))
        ]
        total = sum(map(Decimal, found), Decimal(0))
        added = " + ".join(found)
        shown = [numbers.spoken(rng, language, n) for n in found]
        if language == "en":
            joined = (
                rng.choice((", ", ", ", " and ")).join(shown[:-1]) + rng.choice((" and ", ", and ", ", ")) + shown[-1]
            )
        else:
            joined = rng.choice(("、", "，", ",")).join(shown[:-1]) + rng.choice(("和", "、", "，")) + shown[-1]
        slots = {"l": joined, "p": rng.choice((" + ", "+")).join(found) if language == "en" else "+".join(found)}
        return (slots, added, total) if form == "list" else (slots, f"({added}) / {len(found)}", total / len(found))
    a, b = numbers.everyday(rng), numbers.everyday(rng)
    fixed = {
        "half": ("/", "2"),
        "double": ("*", "2"),
        "triple": ("*", "3"),
        "third": ("/", "3"),
        "quarter": ("/", "4"),
        "square": ("**", "2"),
        "cube": ("**", "3"),
    }
    if form == "sqrt":
        a = str(rng.randint(1, 99) ** 2) if rng.random() < 0.6 else words.integer(rng, 4)
        root = math.isqrt(int(a))
        value = Decimal(root) if root * root == int(a) else Decimal(a).sqrt()
        return {"a": full_width(rng, a)}, f"sqrt({a})", value
    if form == "mod":
        a, b = words.integer(rng, 5), str(rng.randint(2, 99))
        return {"a": a, "b": b}, f"{a} % {b}", Decimal(int(a) % int(b))
    if form in fixed:
        sign, b = fixed[form]
        a = words.integer(rng, 3) if form in ("square", "cube") else a
    else:
        sign = form
        if form == "**":
            a, b = str(rng.randint(2, 30)), str(rng.randint(2, 12))
        elif form == "-" and rng.random() < 0.8 and Decimal(a) < Decimal(b):
            a, b = b, a
    slots = {"a": numbers.spoken(rng, language, a), "b": numbers.spoken(rng, language, b)}
    return slots, f"{a} {sign} {b}", apply(sign, Decimal(a), Decimal(b))


def _longer(rng: Random) -> tuple[str, Decimal]:
    """Two signs or more without parentheses, or one sign; what is divided by is never zero."""
    count = rng.choice((2, 2, 2, 3, 4, 5))
    parts = [numbers.everyday(rng, 4, 0.15) for _ in range(count)]
    signs = [rng.choice("++--**/") for _ in range(count - 1)]
    expression = parts[0] + "".join(f" {sign} {part}" for sign, part in zip(signs, parts[1:], strict=True))
    terms: list[Decimal] = [Decimal(parts[0])]
    for sign, part in zip(signs, parts[1:], strict=True):
        if sign in "*/":
            terms[-1] = apply(sign, terms[-1], Decimal(part))
        else:
            terms.append(Decimal(part) if sign == "+" else -Decimal(part))
    return expression, sum(terms, Decimal(0))


def percent_ask(rng: Random, language: Language, withheld: bool, bare: bool = False) -> Ask:
    """A share of a number, a rise, a discount, or one number as a percentage of another."""
    table = EN_PERCENT if language == "en" else ZH_PERCENT
    form = rng.choice(("of", "of", "more", "less", "share"))
    if form == "share":
        a, b = sorted((words.integer(rng, 4), words.integer(rng, 4)), key=int)
        slots, expression, value = {"a": a, "b": b}, f"{a} / {b} * 100", Decimal(a) / Decimal(b) * 100
    else:
        n, p = numbers.everyday(rng, 6), percentages.percent(rng)
        factor, written = {
            "of": (Decimal(p), p),
            "more": (100 + Decimal(p), f"(100 + {p})"),
            "less": (100 - Decimal(p), f"(100 - {p})"),
        }[form]
        shown = words.grouped(rng, n) if language == "en" else full_width(rng, n)
        if language == "en" and rng.random() < 0.3:
            shown = numbers.money(rng, language, shown)
        spoken_p = numbers.in_english(int(p)) if p.isdigit() and language == "en" and rng.random() < 0.05 else p
        if language == "zh" and p.isdigit() and rng.random() < 0.08:
            spoken_p = numbers.in_chinese(int(p))
        slots, expression, value = {"n": shown, "p": spoken_p}, f"{n} * {written} / 100", Decimal(n) * factor / 100
    template = say(rng, language, lambda: framed(rng, language, table[form]), AVOID, withheld)
    if language == "zh" or not slots.get("p", "").replace(".", "").isdigit():
        template = _words_not_sign(template, slots)
    text = dress_up(rng, language, template, bare, **slots)
    result = plain(value, 10)
    shown_result = f"{result}%" if form == "share" else result
    answer = f"The result is {shown_result}." if language == "en" else f"结果是{shown_result}。"
    return Ask(text, f"wide/percentages/{form}", "calculate", {"expression": expression}, result, answer, result)


def _words_not_sign(template: str, slots: Mapping[str, str]) -> str:
    """``百分之二十`` and ``twenty percent``, never ``二十%``."""
    p = slots.get("p", "")
    if not p or p.replace(".", "").isdigit():
        return template
    return (
        template.replace("{p}%", "百分之{p}")
        if p[0] in "零一二三四五六七八九十百"
        else template.replace("{p}%", "{p} percent")
    )
