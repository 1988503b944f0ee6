"""Questions about the platform in many words: what one wants to do, or to know, in everyday frames."""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum import platform
from deepseek.training.curriculum.paraphrase.grammar import dress_up, normal, say
from deepseek.training.curriculum.phrasing import Chat, is_withheld
from deepseek.training.curriculum.sample import Language

# topic: (what one wants to do, what one wants to know, whole questions)
_Ways = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
EN: dict[str, _Ways] = {
    "stack": ((), ("deepseek-stack", "this [platform|project|software|package|program]", "the deepseek stack"), ("What [can|does] [deepseek-stack|this platform|this software|this project] do?", "What is [deepseek-stack|this platform|this project|this thing] [for|about|good for]?", "What am I looking at here?")),
    "serve": (("[start|run|launch|bring up] the [server|API server|API]", "[serve|deploy|host] [a|my|the] model", "put a model online", "start serving"), (), ("[Which|What] command [starts|runs|launches] the [server|API]?", "How [is|does] the server [started|start]?")),
    "chat": (("chat in [the|a|my] terminal", "talk to the model in [the|a] [terminal|shell]", "[open|start] a [terminal |]chat", "chat from the command line"), (), ("[Which|What] command [opens|starts] [a|the] chat?", "Is there a [command line|terminal] chat?")),
    "generate": (("generate [a |some |]text [from the command line|in the shell|in the terminal]", "complete [a|one] prompt [in the shell|from the command line|]", "get a [single |]completion [in the shell|from the command line]"), (), ("[Which|What] command [generates text|completes a prompt]?",)),
    "train": (("train [a|the|my|the built-in] model", "[start|begin] [the |]training", "run a training"), (), ("[Which|What] command [starts|runs] [the |]training?", "How [is|does] training [started|start|work]?")),
    "doctor": (("check [my|the] [installation|setup|environment]", "[diagnose|find problems of|debug] my [setup|installation]", "see [what|whether everything] is installed"), ("deepseek doctor", "the doctor command"), ("Is my [setup|installation] [fine|ok|all right]?", "What does [deepseek doctor|the doctor command] do?")),
    "install": (("install [it|everything|this|the platform|deepseek-stack]", "[get|be] started [quickly|fast|]", "run [it|everything] after cloning", "set it up"), ("the [fastest|quickest] way to [start|install]",), ("[Which|What] make target [starts|installs] [everything|the platform]?", "What [do I do|comes] [after|next after] [cloning|the clone]?")),
    "test": (("run the [tests|test suite|unit tests]", "test [the|this] [project|code|package]", "start the tests"), (), ("[Which|What] command runs the [tests|test suite]?",)),
    "port": ((), ("the [default |]port", "the port of the server", "the [address|URL] of the [playground|page]"), ("[Which|What] port [does the server use|is used|is the default|does it listen on]?", "Where [is|do I find] the [playground|web page|page]?", "On which [port|address|URL] [does it run|is the page|is the playground]?")),
    "tiny": ((), ("deepseek-tiny", "the [built-in|embedded|included|bundled] model", "your size"), ("How [big|large] [are you|is deepseek-tiny|is the built-in model]?", "How many parameters [do you have|are there|has the built-in model|does deepseek-tiny have]?", "What size [are you|is the built-in model]?")),
    "python": ((), ("the [minimum|required|lowest] Python version", "the Python requirement"), ("[Which|What] [Python|Python version|version of Python] [do I need|is needed|is required|does it need|must I have]?", "Does it [run|work] [on|with] Python [3.9|3.10|3.8]?", "[Which|What] Python versions [work|are supported]?")),
    "license": ((), ("the [license|licence]", "the license terms"), ("[Which|What] [license|licence] [does it have|is it under|is this under|does deepseek-stack use]?", "Is [it|this|deepseek-stack] [free|open source|free software]?", "Under [which|what] [license|licence] [is it|is this] [published|released]?")),
    "tiers": ((), ("the [API |service |]tiers", "the service levels"), ("[Which|What] [tiers|levels|plans] [are there|does the API have|are offered|exist|do you offer]?", "How many tiers [are there|does the API have]?", "[List|Name] the [API |]tiers.")),
    "basic": ((), ("the [limit|rate limit|QPS] of the basic tier", "the basic tier"), ("How many requests [per second |a second |][does|are allowed in|can I make in|has] [the |]basic[ tier|][ allow|]?", "How fast is [the |]basic[ tier|]?", "What [limit|does] [has the basic tier|the basic tier offer]?")),
    "pro": ((), ("the [limit|rate limit|QPS] of the professional tier", "the professional tier"), ("How many requests [per second |a second |][does|are allowed in|can I make in|has] [the |]professional[ tier|][ allow|]?", "How fast is [the |]professional[ tier|]?", "What does the professional tier offer?")),
    "enterprise": ((), ("the enterprise tier", "the [features|extras] of the enterprise tier"), ("What [does|is in|is special about|comes with] [the |]enterprise[ tier|][ offer| have|]?", "Does [the |]enterprise[ tier|] [have|include|offer|support] gRPC?")),
    "plugin": (("[write|make|create|build] [a|my own] plugin", "[add|register|install] [a|my own] plugin", "extend the platform"), ("register_plugin", "the register_plugin decorator"), ("How [are|do] plugins [registered|work|written]?",)),
    "endpoint": (("complete a prompt over HTTP", "generate text over HTTP"), ("the [generate|generation|text generation] [endpoint|route|URL]", "the HTTP path for text generation"), ("[Which|What] [URL|endpoint|route|path] [generates text|completes a prompt|is for generation]?", "Where do I [post|send] [a|the|my] prompt?")),
    "openai": (("use [the|an|my] OpenAI [client|SDK|library]", "call it with the OpenAI client"), ("the chat completions endpoint",), ("Is [it|the API] [compatible with OpenAI|OpenAI compatible]?", "Does [my|the] OpenAI [code|client|SDK] work[ here| with it|]?", "[Which|What] [route|endpoint|path] is for chat?", "Is there a chat completions [endpoint|route]?")),
    "stream": (("stream [the|an] [answer|output|response|tokens]", "get [the |]tokens as they come", "receive [the|a] [answer|response] bit by bit", "turn on streaming"), (), ("[Is streaming|Are streams] supported?", "Can [the API|it] stream[ tokens| answers|]?")),
    "metrics": (("[see|get|read|find] the metrics", "monitor the [server|platform]", "watch the load"), ("the metrics [endpoint|path|page]",), ("Where are the metrics?", "Is there a Prometheus [endpoint|exporter]?", "[Which|What] [path|URL|endpoint] [shows|has] [the |]metrics?")),
    "health": (("[check|see|know] [that|whether|if] the server is [ready|up|healthy]", "probe the server"), ("the [readiness|health] [endpoint|check|path|probe]",), ("Is there a [health|readiness] [check|endpoint]?", "[Which|What] [path|endpoint] [tells|says] [that|whether] the server is ready?")),
    "debugger": (("debug [an|my] agent", "see what my agent did", "trace [an|my] agent", "inspect an agent's steps"), ("AgentDebugger", "the agent debugger"), ("Can I [trace|debug|inspect] [agents|agent runs]?",)),
    "registry": (("give [an|my] agent a tool", "[add|register] [a|my own|new] [tool|tools]", "make a function a tool"), ("ToolRegistry", "the tool registry"), ("Where do [agent |]tools come from?", "How are tools registered?")),
    "tenant": (("[act|work] for one tenant", "keep [customers|tenants|their data] apart", "isolate tenants"), ("TenantContext", "multi-tenancy here"), ("Is multi-tenancy supported?", "How are tenants [isolated|kept apart|separated]?", "How is [the |]data of [customers|tenants] kept apart?")),
    "parallel": (("train on [many|several|more] GPUs", "scale [it |]over GPUs", "spread a model over [a cluster|GPUs]"), ("the kinds of parallelism", "the parallelism here"), ("[Which|What] [kinds of |]parallelism [is|are] [there|supported]?", "How does it scale[ over GPUs| to many GPUs|]?")),
    "precision": ((), ("mixed precision here", "the [precision|number formats] of training"), ("[Which|What] [precision|number formats|number format] does [training|it] use?", "Does it [train in|support|use] FP8?", "Is FP8 [supported|used]?")),
    "models": ((), ("the supported [models|architectures|checkpoints]",), ("[Which|What] [models|checkpoints|architectures] [can I serve|are supported|can be loaded|run here|can it run]?", "Can [I|it] [serve|run|load] [Llama|Qwen|Llama or Qwen|DeepSeek V3|Qwen2]?")),
    "own": (("use [a bigger|another|a larger|my own|a real] model", "load [a Hugging Face model|my own checkpoint]", "[replace|swap|change] the built-in model", "use my own [checkpoint|weights]"), (), ("I want a [real|bigger|better] model[. What do I do|, what do I do|, how]?", "Can I use [my own|another] [model|checkpoint]?")),
    "database": ((), ("the database", "the database [it|the platform] uses"), ("[Which|What] database [is used|does it use|do I need|is needed]?", "Where is the [state|data] [stored|kept]?", "Does it need [PostgreSQL|Postgres|a database]?", "What stores the data?")),
}  # fmt: skip
ZH: dict[str, _Ways] = {
    "stack": ((), ("deepseek-stack", "这个[平台|项目|软件]"), ("[deepseek-stack|这个平台|这个项目|这个软件][是做什么的|有什么用|能做什么|是干什么的|能干嘛]？",)),
    "serve": (("[启动|运行|开启][服务器|服务|API服务]", "[部署|上线]模型", "把模型上线"), (), ("[启动|运行][服务器|服务][用|是|要用][哪个|什么]命令？",)),
    "chat": (("在终端[里|]聊天", "[打开|开始|启动][终端|命令行]聊天", "在[终端|命令行]和模型[对话|聊天]"), (), ("[哪个|什么]命令[打开|启动|开始]聊天？", "有[没有|]命令行聊天[吗|]？")),
    "generate": (("在[命令行|终端][里|]生成文本", "[补全|完成]一个提示词", "在终端[里|]得到一次补全"), (), ("[哪个|什么]命令[可以|]生成文本？",)),
    "train": (("训练[一个|]模型", "[启动|开始]训练", "训练内置模型"), (), ("[哪个|什么]命令[启动|开始]训练？", "训练[怎么|如何]启动？")),
    "doctor": (("检查[安装|我的环境|环境]", "诊断[环境|安装]问题", "看安装[是否正常|情况]"), ("deepseek doctor", "doctor命令"), ("deepseek doctor[是做什么的|有什么用|是什么]？",)),
    "install": (("安装[它|平台|这个|]", "快速[上手|开始]", "克隆[之|以]后运行"), (), ("克隆[代码|]以后[第一步|先|]做什么？", "哪个make命令[启动平台|安装]？", "最快的[上手|安装]方法是什么？")),
    "test": (("[运行|跑]测试", "测试[这个|]项目"), (), ("[哪个|什么]命令[跑|运行]测试？",)),
    "port": ((), ("默认端口", "服务器的端口", "试用页面的[地址|网址]"), ("[服务器|服务][用|使用|跑在]哪个端口？", "[试用|]页面在[哪里|哪]？", "端口是多少？")),
    "tiny": ((), ("deepseek-tiny", "内置模型", "内置的模型"), ("你有多[大|少参数]？", "内置模型[有多大|多大|有多少参数]？")),
    "python": ((), ("Python[的|]最低版本",), ("[需要|要求|要][哪个|什么][版本的|]Python[版本|]？", "[支持|能用]哪些Python版本？", "Python[3.9|3.10|3.8][可以用|行|能用|能跑][吗|]？")),
    "license": ((), ("许可证", "许可条款"), ("[用|是|采用][什么|哪个]许可证？", "[它|这个]是[开源|免费]的吗？")),
    "tiers": ((), ("[API|接口|服务]的等级", "[API|服务]级别"), ("[API|接口|服务]有[哪些|几个|哪几个][等级|级别]？", "[接口|服务]分[几级|哪几级]？")),
    "basic": ((), ("基础版的[限制|QPS|限额]", "基础版"), ("基础版每秒[多少|几][次|]请求？", "基础[版|用户]每秒能请求[多少|几]次？")),
    "pro": ((), ("专业版的[限制|QPS|限额]", "专业版"), ("专业版每秒[多少|几][次|]请求？", "专业[版|用户]每秒能请求[多少|几]次？")),
    "enterprise": ((), ("企业版", "企业版的[功能|特点]"), ("企业版[有什么|有哪些|提供什么][功能|特别的|]？", "企业版[支持|有]gRPC吗？")),
    "plugin": (("[写|开发|做]一个插件", "[添加|注册|加]插件", "扩展[这个|]平台"), ("register_plugin",), ("插件[怎么|如何]注册？", "可以[自己|]加插件吗？")),
    "endpoint": (("用HTTP生成文本",), ("生成[文本的|]接口", "[文本|]生成的路径"), ("[哪个|什么][接口|网址|路径]生成文本？", "提示词[发|发送]到[哪里|哪]？")),
    "openai": (("用OpenAI客户端",), ("聊天补全接口",), ("[API|接口|它]兼容OpenAI[吗|]？", "[我的|]OpenAI[代码|客户端][能用|可以用|还能用]吗？", "聊天用哪个[路径|接口]？")),
    "stream": (("流式[输出|返回|接收回答]", "边生成边接收", "逐字收到回答"), (), ("[支持|能]流式[输出|返回|]吗？", "API[能|可以]流式[返回|]吗？")),
    "metrics": (("[看|查看|获取]指标", "监控[服务器|平台]", "观察服务器负载"), ("指标[的|]路径",), ("指标在哪[里|][看|]？", "有Prometheus[接口|指标]吗？", "哪个路径[显示|有]指标？")),
    "health": (("[知道|检查|确认]服务器[是否|]就绪", "做健康检查"), ("就绪检查[的|]接口", "健康检查[的|]路径"), ("有[没有|]健康检查[吗|]？", "哪个路径表示[服务|服务器]就绪？")),
    "debugger": (("调试智能体", "看智能体做了什么", "追踪智能体"), ("AgentDebugger", "智能体调试器"), ("可以追踪智能体[的运行|]吗？",)),
    "registry": (("给智能体加工具", "[注册|添加]工具", "把函数变成工具"), ("ToolRegistry",), ("智能体的工具从哪[里|]来？", "工具[怎么|如何]注册？")),
    "tenant": (("以某个租户的身份操作", "隔离租户", "分开客户的数据"), ("TenantContext",), ("租户[怎么|如何]隔离？", "支持多租户吗？", "客户的数据[怎么|如何]分开？")),
    "parallel": (("扩展到[多块|很多]GPU", "用多块GPU训练", "把模型分布到集群上"), ("并行方式",), ("[支持|有][哪些|什么]并行[方式|]？", "可以用[很多|多块]GPU训练吗？")),
    "precision": ((), ("这里的混合精度", "训练的[精度|数值格式]"), ("训练[用|使用][什么|哪种][精度|数值格式]？", "[支持|用]FP8[训练|]吗？")),
    "models": ((), ("支持的模型[架构|]",), ("[可以|能][部署|跑|加载][哪些|什么][模型|检查点]？", "支持[哪些|什么]模型[架构|]？", "能[部署|跑]Llama[或Qwen|]吗？")),
    "own": (("用更大的模型", "用自己的[检查点|模型]", "加载Hugging Face模型", "[替换|换掉]内置模型"), (), ("我想[用|要]真正的模型，怎么办？", "可以用自己的[模型|检查点]吗？")),
    "database": ((), ("[用的|使用的]数据库",), ("[用|用的是|需要]什么数据库？", "[状态|数据][存|保存]在哪[里|]？", "需要[PostgreSQL|数据库]吗？")),
}  # fmt: skip
_EN_DO = ("how [do I|can I|would I|should I|does one|to] <do>?", "[what|which] [command|commands] [do I need|should I use|do I use|is there|lets me use] to <do>?", "[tell me|show me|explain|explain to me] how to <do>[, please|].", "I [want|would like|need] to <do>[, how|. How does that work|. What do I do]?", "is there a [way|command] to <do>?", "[can I|is it possible to|am I able to] <do>?", "what [do I type|must I type|do I run] to <do>?", "what's the [way|command] to <do>?")  # fmt: skip
_EN_KNOW = (
    "what is <x>?",
    "what's <x>?",
    "[tell me|say something|what can you tell me] about <x>[?|.]",
    "[explain|describe|name] <x>[ to me|].",
    "[can|could] you [tell me|explain] [what |]<x>[ is|]?",
    "I [want|would like|need] to know [about |]<x>.",
    "do you know <x>?",
    "<x>?",
)
_ZH_DO = (
    "[怎么|如何|怎样|咋][才能|]<do>？",
    "<do>[用|要用|需要][什么|哪个]命令？",
    "[请|][告诉我|教我|说说]怎么<do>",
    "我[想|要|需要]<do>[，怎么做|，怎么办|，该怎么做]？",
    "[能|可以|能不能]<do>吗？",
    "<do>[怎么|该怎么]做？",
    "有没有办法<do>？",
)
_ZH_KNOW = (
    "<x>是[什么|多少|啥]？",
    "什么是<x>？",
    "[请|][介绍|说说|讲讲|说明]一下<x>",
    "[我想知道|告诉我|请告诉我]<x>[是什么|]",
    "你知道<x>吗？",
    "<x>呢？",
    "<x>？",
)
AVOID = frozenset(
    normal(text) for table in (platform.EN, platform.ZH) for questions, _, _ in table.values() for i, text in enumerate(questions) if is_withheld(i)
)  # fmt: skip


def ask(rng: Random, language: Language, withheld: bool) -> Chat:
    """A question about the platform and its answer."""
    english = language == "en"
    ways, facts = (EN, platform.EN) if english else (ZH, platform.ZH)
    topic = rng.choice(tuple(ways))

    def pattern() -> str:
        do, know, tell = ways[topic]
        kinds = [(do, _EN_DO if english else _ZH_DO), (know, _EN_KNOW if english else _ZH_KNOW), (tell, ())]
        chosen, frames = rng.choice([(things, frames) for things, frames in kinds if things])
        text = rng.choice(chosen)
        return rng.choice(frames).replace("<do>", text).replace("<x>", text) if frames else text

    template = say(rng, language, pattern, AVOID, withheld)
    _, answer, fact = facts[topic]
    return Chat(dress_up(rng, language, template, False), f"wide/platform/{topic}", answer, fact)
