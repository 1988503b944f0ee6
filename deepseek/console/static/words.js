// Every word the page shows, in both of its languages, and the examples the built-in model can answer.

export const words = {
  en: {
    skip: "Skip to the prompt", playground: "Playground", connecting: "Connecting…", ready: "Ready", down: "Not ready",
    theme: "Light or dark", conversation: "Conversation", welcome: "Ask the model something",
    welcomeText: "Pick an example or write your own. Nothing leaves this server.", examples: "Examples",
    firstToken: "First token", speed: "Speed", tokens: "Tokens", ended: "Ended by", prompt: "Prompt",
    promptHint: "Write a message…", completeHint: "Write the beginning of a text…", mode: "Mode", chat: "Chat", complete: "Complete",
    clear: "Clear", keys: "Ctrl + Enter", stop: "Stop", send: "Send", settings: "Settings", model: "Model",
    maxTokens: "Maximum tokens", temperature: "Temperature", topP: "Top-p", topK: "Top-k", seed: "Seed", random: "random", auto: "automatic", found: "found",
    topKNote: "Top-k 0 keeps every token.", stops: "Stop at, one a line", stopsHint: "e.g. \\n for a line break",
    asCurl: "The same request with curl", copy: "Copy", copied: "Copied", links: "More", you: "You", text: "Completion",
    offline: "The server does not answer.", emptyPrompt: "Write a prompt first.", badNumber: "is not a whole number",
    cutOff: "The stream ended before the answer did.", useKey: "Use this key",
    keyNeeded: "This server asks for an API key. It is kept in this tab only, until you close it.",
    reasons: { stop: "stop", length: "length", stopped: "you", budget: "budget", deadline: "deadline", cancelled: "shutdown", error: "error" },
    unit: (speed) => `${speed} tokens/s`, count: (out, prompt) => (prompt === null ? `${out}` : `${out} (+ ${prompt} prompt)`),
  },
  zh: {
    skip: "跳到输入框", playground: "试验台", connecting: "正在连接……", ready: "就绪", down: "未就绪",
    theme: "切换深浅色", conversation: "对话", welcome: "问问模型",
    welcomeText: "选一个例子，或者自己写。内容不会离开这台服务器。", examples: "例子",
    firstToken: "首个词元", speed: "速度", tokens: "词元", ended: "结束原因", prompt: "提示词",
    promptHint: "写一条消息……", completeHint: "写一段文字的开头……", mode: "模式", chat: "对话", complete: "续写",
    clear: "清空", keys: "Ctrl + Enter", stop: "停止", send: "发送", settings: "参数", model: "模型",
    maxTokens: "最多词元数", temperature: "温度", topP: "Top-p", topK: "Top-k", seed: "随机种子", random: "随机", auto: "自动", found: "现为",
    topKNote: "Top-k 为 0 表示不筛选。", stops: "停止于，每行一个", stopsHint: "例如 \\n 表示换行",
    asCurl: "用 curl 发同样的请求", copy: "复制", copied: "已复制", links: "更多", you: "你", text: "续写",
    offline: "服务器没有回应。", emptyPrompt: "请先写提示词。", badNumber: "不是整数",
    cutOff: "回答还没结束，连接就断开了。", useKey: "使用此密钥",
    keyNeeded: "此服务器需要 API 密钥。密钥只保存在本标签页中，关闭后即丢弃。",
    reasons: { stop: "自然结束", length: "长度上限", stopped: "你", budget: "额度", deadline: "时限", cancelled: "服务器关闭", error: "错误" },
    unit: (speed) => `${speed} 词元/秒`, count: (out, prompt) => (prompt === null ? `${out}` : `${out}（另有提示 ${prompt}）`),
  },
};

export const examples = {
  en: ["What is 37 × 48?", "What is 15% of 260?", "Convert 5 km to miles", "Which date is 30 days after 2026-03-01?", "Hello! What can you do?"],
  zh: ["37 乘以 48 等于多少？", "260 的 15% 是多少？", "5 公里等于多少英里？", "2026-03-01 之后 30 天是哪一天？", "你好！你能做什么？"],
};
