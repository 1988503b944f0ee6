"""Questions about deepseek-stack itself, answered from a fixed set of facts.

Each entry: the questions (every fifth withheld), the answer, and the part of the answer that must be right.
"""

from __future__ import annotations

from random import Random

from deepseek.training.curriculum.phrasing import Chat, compose
from deepseek.training.curriculum.sample import Language

Facts = dict[str, tuple[tuple[str, ...], str, str]]
EN: Facts = {
    "stack": (("What is deepseek-stack?", "Tell me about deepseek-stack.", "What is this platform?", "Describe this project.", "What is this software for?", "What does deepseek-stack do?"), "deepseek-stack is one Python package that trains and serves DeepSeek models and puts agents on them.", "trains and serves DeepSeek models"),
    "serve": (("How do I start the server?", "How can I serve a model?", "Which command starts the server?", "How do I run the API server?", "How is a model put online?", "Start serving: which command?"), "Run `deepseek serve --model PATH`.", "`deepseek serve"),
    "chat": (("How do I chat in the terminal?", "Can I talk to the model in a terminal?", "Which command opens a chat?", "How do I start a terminal chat?", "Is there a command line chat?"), "Run `deepseek chat`.", "`deepseek chat`"),
    "generate": (("How do I generate text from the command line?", "Which command completes a prompt?", "How can I get a single completion in the shell?", "What is the command for text generation?", "Completing one prompt in the shell: how?"), "Run `deepseek generate --prompt TEXT`.", "`deepseek generate"),
    "train": (("How do I train a model?", "Which command starts training?", "How can I train the built-in model?", "How is training started?", "Training a model: what do I type?"), "Run `deepseek train recipes/tiny.yaml`.", "`deepseek train"),
    "doctor": (("How do I check my installation?", "What does deepseek doctor do?", "Which command shows what is installed?", "Is my setup all right, how do I check?", "How can I diagnose my setup?"), "Run `deepseek doctor`: it checks your installation.", "`deepseek doctor`"),
    "install": (("How do I install everything?", "What is the fastest way to start?", "How do I run it after cloning?", "Which make target starts the platform?", "First steps after the clone?"), "Run `make run`: it installs everything and starts the server.", "`make run`"),
    "test": (("How do I run the tests?", "Which command runs the test suite?", "How can I test the project?", "What do I type to run tests?", "Running the test suite: how?"), "Run `make test`.", "`make test`"),
    "port": (("Which port does the server use?", "What is the default port?", "Where is the playground page?", "On which address does the page open?", "At what URL do I find the playground?"), "The playground is at http://localhost:8080.", "8080"),
    "tiny": (("What is deepseek-tiny?", "How big is the built-in model?", "How many parameters do you have?", "Tell me about the built-in model.", "What size is the embedded model?", "How large are you?"), "deepseek-tiny is the built-in demonstration model with 11 million parameters.", "11 million parameters"),
    "python": (("Which Python version do I need?", "What Python does it require?", "Does it run on Python 3.10?", "Which Python versions are supported?", "Minimum Python version?"), "Python 3.11 or newer is needed.", "3.11"),
    "license": (("What is the license?", "Which license does deepseek-stack have?", "Is it open source?", "Under which license is it published?", "What are the license terms?"), "It is licensed under Apache-2.0.", "Apache-2.0"),
    "tiers": (("Which API tiers are there?", "What tiers does the API have?", "What levels of API are offered?", "List the API tiers.", "Name the service levels."), "There are three tiers: basic, professional and enterprise.", "basic, professional and enterprise"),
    "basic": (("What is the limit of the basic tier?", "How many requests per second does basic allow?", "What does the basic tier offer?", "Basic tier: how fast?", "How many QPS for basic users?"), "The basic tier allows 100 requests per second.", "100"),
    "pro": (("What is the limit of the professional tier?", "How many requests per second does professional allow?", "What does the professional tier offer?", "Professional tier: how fast?", "How many QPS for professional users?"), "The professional tier allows 500 requests per second.", "500"),
    "enterprise": (("What does the enterprise tier offer?", "What is in the enterprise tier?", "Does the enterprise tier have gRPC?", "What is special about enterprise?", "Tell me about enterprise features."), "The enterprise tier adds gRPC and dynamic rate limits.", "gRPC"),
    "plugin": (("How do I write a plugin?", "How are plugins registered?", "How do I add a plugin?", "What is register_plugin?", "How can I extend the platform?", "Can I add my own plugin?"), "Put @register_plugin(\"name\") on a class with a pre_process method.", "@register_plugin"),
    "endpoint": (("What is the generate endpoint?", "Which URL generates text?", "Where do I post a prompt?", "Which route completes a prompt?", "What is the HTTP path for text generation?"), "Send a POST request to /v1/generate.", "/v1/generate"),
    "openai": (("Is the API compatible with OpenAI?", "Can I use the OpenAI client?", "Which route is for chat?", "Is there a chat completions endpoint?", "Does my OpenAI code work here?"), "Yes, use /v1/chat/completions with any OpenAI client.", "/v1/chat/completions"),
    "stream": (("How do I stream the answer?", "Is streaming supported?", "How can I get tokens as they come?", "Can the API stream?", "How do I receive a response bit by bit?"), "Set stream to true in the request.", "stream to true"),
    "metrics": (("Where are the metrics?", "How do I monitor the server?", "Is there a Prometheus endpoint?", "Which path shows metrics?", "How can I watch the server's load?"), "Prometheus metrics are at /metrics.", "/metrics"),
    "health": (("How do I check that the server is ready?", "Is there a health check?", "Which path tells that the server is ready?", "What is the readiness endpoint?", "How do probes see that the server works?"), "Ask /readyz: it answers when the model is ready.", "/readyz"),
    "debugger": (("What is the agent debugger?", "How do I debug an agent?", "How can I see what my agent did?", "What is AgentDebugger?", "Tracing an agent: how?", "Can I trace agent runs?"), "AgentDebugger records each step of an agent so that you can inspect it.", "AgentDebugger"),
    "registry": (("How do I give an agent a tool?", "What is ToolRegistry?", "How are tools registered?", "How do I add a tool?", "Where do agent tools come from?"), "Register a function with ToolRegistry and the agent can call it.", "ToolRegistry"),
    "tenant": (("How are tenants isolated?", "What is TenantContext?", "Is multi-tenancy supported?", "How do I act for one tenant?", "How is data of customers kept apart?"), "Use TenantContext: each tenant sees only its own data.", "TenantContext"),
    "parallel": (("Which kinds of parallelism are there?", "How does it scale over GPUs?", "Can I train on many GPUs?", "What parallelism is supported?", "How is a model spread over a cluster?"), "Tensor, pipeline, data and expert parallelism are supported.", "pipeline"),
    "precision": (("Which number formats does training use?", "Does it train in FP8?", "What is mixed precision here?", "Which precision is used in training?", "Is FP8 supported?"), "Training mixes FP16 and FP8.", "FP8"),
    "models": (("Which models can I serve?", "What model architectures are supported?", "Can I serve Llama or Qwen?", "Which checkpoints can be loaded?", "What kinds of models run here?"), "DeepSeek V2 and V3, Llama and Qwen2 checkpoints can be served.", "DeepSeek V2 and V3"),
    "own": (("How do I use a bigger model?", "Can I use my own checkpoint?", "How do I load a Hugging Face model?", "How do I replace the built-in model?", "I want a real model, what do I do?"), "Give its path or hub id: `deepseek serve --model PATH`.", "--model PATH"),
    "database": (("Which database is used?", "Where is the state stored?", "Does it need PostgreSQL?", "What stores the data?", "Which database do I need?"), "It uses SQLite, or PostgreSQL when you grow.", "SQLite"),
}  # fmt: skip
ZH: Facts = {
    "stack": (("什么是deepseek-stack？", "介绍一下deepseek-stack", "这个平台是什么？", "这个项目是做什么的", "这个软件有什么用？", "deepseek-stack能做什么？"), "deepseek-stack是一个Python包，用来训练和部署DeepSeek模型，并在上面运行智能体。", "训练和部署DeepSeek模型"),
    "serve": (("怎么启动服务器？", "如何部署模型？", "启动服务用哪个命令", "怎样运行API服务？", "怎么让模型上线？", "用什么命令启动服务？"), "运行`deepseek serve --model PATH`。", "`deepseek serve"),
    "chat": (("怎么在终端里聊天？", "可以在终端和模型对话吗", "哪个命令打开聊天？", "如何开始终端聊天？", "有命令行聊天吗？"), "运行`deepseek chat`。", "`deepseek chat`"),
    "generate": (("怎么在命令行生成文本？", "哪个命令可以补全提示词？", "如何在终端里得到一次补全", "生成文本的命令是什么？", "命令行里怎样生成一段文字？"), "运行`deepseek generate --prompt TEXT`。", "`deepseek generate"),
    "train": (("怎么训练模型？", "哪个命令开始训练？", "如何训练内置模型", "训练怎么启动？", "训练模型要输入什么？"), "运行`deepseek train recipes/tiny.yaml`。", "`deepseek train"),
    "doctor": (("怎么检查安装？", "deepseek doctor是做什么的？", "哪个命令显示安装情况", "如何检查我的环境？", "怎样诊断环境问题？"), "运行`deepseek doctor`，它会检查安装。", "`deepseek doctor`"),
    "install": (("怎么安装？", "最快的上手方法是什么？", "克隆之后怎么运行", "哪个make命令启动平台？", "克隆代码以后第一步做什么？"), "运行`make run`，它会安装并启动服务。", "`make run`"),
    "test": (("怎么运行测试？", "哪个命令跑测试？", "如何测试这个项目", "跑测试要输入什么？", "测试套件怎样运行？"), "运行`make test`。", "`make test`"),
    "port": (("服务器用哪个端口？", "默认端口是多少", "试用页面在哪里？", "页面的地址是什么？", "在哪个网址打开试用页面？"), "试用页面在http://localhost:8080。", "8080"),
    "tiny": (("什么是deepseek-tiny？", "内置模型有多大？", "你有多少参数", "介绍一下内置模型", "内置模型的规模是多少？", "你有多大？"), "deepseek-tiny是内置的演示模型，有1100万参数。", "1100万参数"),
    "python": (("需要哪个Python版本？", "要求什么Python", "Python3.10可以用吗？", "支持哪些Python版本？", "Python最低版本是多少？"), "需要Python 3.11或更高版本。", "3.11"),
    "license": (("许可证是什么？", "deepseek-stack用什么许可证", "它是开源的吗？", "以什么许可证发布？", "许可条款是什么？"), "许可证是Apache-2.0。", "Apache-2.0"),
    "tiers": (("API有哪些等级？", "接口分几级", "提供哪几种API级别？", "列出API的等级", "服务级别都有哪些？"), "有三个等级：基础版、专业版和企业版。", "基础版、专业版和企业版"),
    "basic": (("基础版的限制是多少？", "基础版每秒多少请求", "基础版提供什么？", "基础版的QPS是多少？", "基础用户每秒能请求几次？"), "基础版每秒允许100次请求。", "100"),
    "pro": (("专业版的限制是多少？", "专业版每秒多少请求", "专业版提供什么？", "专业版的QPS是多少？", "专业用户每秒能请求几次？"), "专业版每秒允许500次请求。", "500"),
    "enterprise": (("企业版提供什么？", "企业版有哪些功能", "企业版支持gRPC吗？", "企业版有什么特别的？", "说说企业版的特点"), "企业版支持gRPC和动态限流。", "gRPC"),
    "plugin": (("怎么写插件？", "插件如何注册", "怎样添加插件？", "register_plugin是什么？", "如何扩展这个平台？", "我可以加自己的插件吗？"), "在带有pre_process方法的类上加@register_plugin(\"name\")。", "@register_plugin"),
    "endpoint": (("生成接口是哪个？", "哪个网址生成文本", "提示词发到哪里？", "哪个路径补全提示词？", "生成文本的HTTP路径是什么？"), "向/v1/generate发送POST请求。", "/v1/generate"),
    "openai": (("API兼容OpenAI吗？", "能用OpenAI客户端吗", "聊天用哪个路径？", "有聊天补全接口吗？", "我的OpenAI代码能用吗？"), "可以，任何OpenAI客户端都能用/v1/chat/completions。", "/v1/chat/completions"),
    "stream": (("怎么流式输出？", "支持流式吗", "怎样边生成边接收？", "API可以流式返回吗？", "如何逐字收到回答？"), "在请求里把stream设为true。", "stream设为true"),
    "metrics": (("指标在哪里看？", "怎么监控服务器", "有Prometheus接口吗？", "哪个路径显示指标？", "怎样观察服务器负载？"), "Prometheus指标在/metrics。", "/metrics"),
    "health": (("怎么知道服务器就绪？", "有健康检查吗", "哪个路径表示服务就绪？", "就绪检查的接口是什么？", "探针怎样确认服务正常？"), "访问/readyz，模型就绪后它会回答。", "/readyz"),
    "debugger": (("什么是智能体调试器？", "怎么调试智能体", "怎样看智能体做了什么？", "AgentDebugger是什么？", "如何追踪智能体？", "可以追踪智能体的运行吗？"), "AgentDebugger记录智能体的每一步，方便查看。", "AgentDebugger"),
    "registry": (("怎么给智能体加工具？", "ToolRegistry是什么", "工具如何注册？", "怎样添加工具？", "智能体的工具从哪里来？"), "用ToolRegistry注册函数，智能体就能调用它。", "ToolRegistry"),
    "tenant": (("租户如何隔离？", "TenantContext是什么", "支持多租户吗？", "怎样以某个租户的身份操作？", "客户的数据如何分开？"), "使用TenantContext，每个租户只能看到自己的数据。", "TenantContext"),
    "parallel": (("有哪些并行方式？", "怎么扩展到多块GPU", "可以用很多GPU训练吗？", "支持什么并行？", "模型如何分布到集群上？"), "支持张量、流水线、数据和专家并行。", "流水线"),
    "precision": (("训练用什么数值格式？", "用FP8训练吗", "这里的混合精度是什么？", "训练使用哪种精度？", "支持FP8吗？"), "训练混合使用FP16和FP8。", "FP8"),
    "models": (("可以部署哪些模型？", "支持哪些模型架构", "能部署Llama或Qwen吗？", "可以加载哪些检查点？", "这里能跑什么模型？"), "可以部署DeepSeek V2和V3、Llama以及Qwen2的检查点。", "DeepSeek V2和V3"),
    "own": (("怎么用更大的模型？", "可以用自己的检查点吗", "如何加载Hugging Face模型？", "怎样替换内置模型？", "我想用真正的模型，怎么办？"), "给出路径或模型名：`deepseek serve --model PATH`。", "--model PATH"),
    "database": (("用的是什么数据库？", "状态存在哪里", "需要PostgreSQL吗？", "数据存在什么地方？", "我需要哪种数据库？"), "使用SQLite，规模大了用PostgreSQL。", "SQLite"),
}  # fmt: skip


def chat(rng: Random, language: Language, withheld: bool) -> Chat:
    """A question about the platform and its answer."""
    table = EN if language == "en" else ZH
    topic = rng.choice(tuple(table))
    questions, answer, fact = table[topic]
    text, phrasing = compose(rng, language, f"platform/{topic}", questions, withheld)
    return Chat(text, phrasing, answer, fact)
