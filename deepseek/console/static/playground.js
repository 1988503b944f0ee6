// The playground: a conversation or a text to continue, streamed, with its numbers. Everything from the
// server or the user goes into the page as text, never as markup.

import { hasKey, identity, keepKey } from "/static/key.js";
import { events, ProblemError, problemOf } from "/static/stream.js";
import { examples, words } from "/static/words.js";

const $ = (id) => document.getElementById(id);
const el = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text });

const state = { language: "en", messages: [], running: null, stats: null };

// A browser may refuse storage; the page works without.
const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* forgets */ } };
const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

const t = (key) => words[state.language][key];
const mode = () => document.querySelector("input[name=mode]:checked").value;

function speak(language) {
  state.language = language;
  remember("language", language);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-l]")) node.setAttribute("aria-label", t(node.dataset.l));
  for (const node of document.querySelectorAll("[data-p]")) node.placeholder = t(node.dataset.p);
  const other = language === "zh" ? ["English", "en", "Switch to English"] : ["中文", "zh-CN", "切换到中文"];
  Object.assign($("language"), { textContent: other[0], lang: other[1] });
  $("language").setAttribute("aria-label", other[2]);
  $("examples").replaceChildren(...examples[language].map((text) => {
    const button = el("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => { $("prompt").value = text; describe(); $("prompt").focus(); });
    return button;
  }));
  showMode();
  showHealth();
  showStats();
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

function showMode() {
  $("prompt").placeholder = t(mode() === "chat" ? "promptHint" : "completeHint");
  describe();
}

let health = "connecting";
function showHealth() {
  $("health").className = `health ${health}`;
  $("health").querySelector("span").textContent = t(health);
}

async function connect() {
  try {
    const [ready, models] = await Promise.all([fetch("/readyz"), fetch("/v1/models", { headers: identity() })]);
    health = ready.ok ? "ready" : "down";
    if (!models.ok) {
      showHealth();
      return refused(await problemOf(models));
    }
    open();
    const names = (await models.json()).data.map((model) => model.id);
    const chosen = $("model").value;
    $("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    describe();
  } catch {
    health = "down";
  }
  showHealth();
}

// The server wants to know who asks, or does not take the key it was given; any other problem is only shown.
function refused(problem) {
  if (problem.status === 401) {
    const wrong = hasKey();
    keepKey("");
    $("gate").hidden = false;
    for (const link of document.querySelectorAll(".guarded")) link.hidden = true;
    showProblem(wrong ? problem : null);
    describe();
    $("key").focus();
  } else showProblem(problem);
}

function open() {
  if (!$("gate").hidden) showProblem(null);
  $("gate").hidden = true;
  for (const link of document.querySelectorAll(".guarded")) link.hidden = hasKey();
}

function useKey() {
  const key = $("key").value.trim();
  if (!key) return $("key").focus();
  keepKey(encodeURI(key)); // no header can carry other characters, and no key has them
  $("key").value = "";
  return connect();
}

// What the form says, as a request. Throws a problem naming the field that is not a number.
function request(prompt) {
  const whole = (id, key) => {
    const text = $(id).value.trim();
    if (text === "") return null;
    if (!/^\d+$/.test(text)) throw new ProblemError({ title: `${t(key)}: "${text}" ${t("badNumber")}` });
    return Number(text);
  };
  const body = { model: $("model").value };
  const chat = mode() === "chat";
  if (chat) body.messages = [...state.messages, { role: "user", content: prompt }];
  else body.prompt = prompt;
  body.max_tokens = whole("max_tokens", "maxTokens");
  body.temperature = Number($("temperature").value);
  body.top_p = Number($("top_p").value);
  body.top_k = whole("top_k", "topK");
  body.seed = whole("seed", "seed");
  // A backslash is how a line break is written in a one-line field.
  const stops = $("stops").value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  body[chat ? "stop" : "stop_sequences"] = stops.length ? stops : null;
  for (const key of Object.keys(body)) if (body[key] === null) delete body[key];
  body.stream = true;
  if (chat) body.stream_options = { include_usage: true };
  return [chat ? "/v1/chat/completions" : "/v1/generate", body];
}

function describe() {
  for (const id of ["temperature", "top_p"]) $(`${id}-out`).textContent = Number($(id).value).toString();
  let text;
  try {
    const [path, body] = request($("prompt").value || "…");
    const data = JSON.stringify(body, null, 1).replaceAll("'", "'\\''");
    // The key itself is not shown.
    const key = hasKey() || !$("gate").hidden ? ` \\\n  -H "authorization: Bearer $DEEPSEEK_API_KEY"` : "";
    text = `curl -N ${location.origin}${path} \\\n  -H 'content-type: application/json'${key} \\\n  -d '${data}'`;
  } catch (error) {
    text = error.message;
  }
  $("curl").textContent = text;
}

function addTurn(role, title, text) {
  $("welcome").hidden = true;
  const turn = el("article", `turn ${role}`);
  const body = el("p", "", text);
  turn.append(el("h3", "", title), body);
  $("log").append(turn);
  return [turn, body];
}

function follow(before) {
  const box = $("scroll");
  if (before) box.scrollTop = box.scrollHeight;
}
const atEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 40;

async function send() {
  if (state.running) return;
  const prompt = $("prompt").value;
  showProblem(null);
  if (!prompt.trim()) {
    showProblem({ title: t("emptyPrompt") });
    $("prompt").focus();
    return;
  }
  let path, body;
  try {
    [path, body] = request(prompt);
  } catch (error) {
    showProblem(error.problem);
    return;
  }
  const chat = mode() === "chat";
  const answer = el("span", "", "");
  let turn, text;
  if (chat) {
    addTurn("user", t("you"), prompt);
    [turn, text] = addTurn("assistant", body.model, "");
    $("prompt").value = "";
  } else {
    $("log").replaceChildren();
    [turn, text] = addTurn("text", t("text"), "");
    text.append(el("mark", "", prompt));
  }
  text.append(answer);
  turn.classList.add("live");
  follow(true);
  busy(new AbortController());
  const stats = state.stats = { sent: performance.now(), first: null, last: null, frames: 0, usage: null, reason: null };
  showStats();
  try {
    for await (const data of events(path, body, state.running.signal)) {
      const choice = data.choices ? data.choices[0] : data;
      const piece = (data.choices ? choice?.delta?.content : data.text) || "";
      if (piece) {
        stats.last = performance.now();
        stats.first ??= stats.last;
        stats.frames += 1;
        const end = atEnd();
        answer.textContent += piece;
        follow(end);
      }
      if (choice?.finish_reason) stats.reason = choice.finish_reason;
      if (data.usage) stats.usage = data.usage;
      if (state.stats === stats) showStats();
    }
    if (!stats.reason) throw new ProblemError({ title: t("cutOff") });
  } catch (error) {
    if (error.name === "AbortError") stats.reason = "stopped";
    else {
      stats.reason = "error";
      if (error instanceof ProblemError) refused(error.problem);
      else showProblem({ title: t("offline"), detail: error.message });
      if (!(error instanceof ProblemError)) connect();
    }
  } finally {
    turn.classList.remove("live");
    busy(null);
    if (state.stats === stats) showStats();
  }
  if (!chat || state.stats !== stats) return;
  if (answer.textContent || stats.reason === "stop" || stats.reason === "length") {
    state.messages.push({ role: "user", content: prompt }, { role: "assistant", content: answer.textContent });
  } else {
    // Nothing came: the turn is taken back, and the prompt with it, so that it can be mended and sent again.
    turn.previousSibling.remove();
    turn.remove();
    $("prompt").value ||= prompt;
    state.stats = null;
    showStats();
    $("welcome").hidden = state.messages.length > 0;
  }
  describe();
}

function busy(controller) {
  const had = document.activeElement === $("stop") || document.activeElement === $("send");
  state.running = controller;
  $("log").setAttribute("aria-busy", String(Boolean(controller)));
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
  if (had) (controller ? $("stop") : $("send")).focus();
}

function showStats() {
  const stats = state.stats;
  $("stats").hidden = !stats;
  if (!stats) return;
  const ms = (value) => (value < 1000 ? `${value.toFixed(0)} ms` : `${(value / 1000).toFixed(2)} s`);
  const tokens = stats.usage ? stats.usage.completion_tokens : stats.frames;
  const seconds = (stats.last - stats.first) / 1000;
  $("stat-ttft").textContent = stats.first === null ? "–" : ms(stats.first - stats.sent);
  $("stat-speed").textContent = seconds > 0 && tokens > 1 ? t("unit")(((tokens - 1) / seconds).toFixed(1)) : "–";
  $("stat-tokens").textContent = t("count")(tokens, stats.usage ? stats.usage.prompt_tokens : null);
  $("stat-reason").textContent = stats.reason ? t("reasons")[stats.reason] ?? stats.reason : "–";
}

function showProblem(problem) {
  $("problem").hidden = !problem;
  if (!problem) return $("problem").replaceChildren();
  const parts = [el("strong", "", problem.title ?? "")];
  if (problem.errors?.length) {
    const list = el("ul", "", "");
    for (const error of problem.errors) {
      const found = error.found === undefined ? "" : `; ${t("found")} ${error.found}`;
      list.append(el("li", "", `${error.field}: ${error.expected ?? ""}${found}`));
    }
    parts.push(list);
  } else if (problem.detail) parts.push(el("span", "", problem.detail));
  $("problem").replaceChildren(...parts);
}

function clear() {
  state.running?.abort();
  state.messages = [];
  state.stats = null;
  $("log").replaceChildren();
  $("welcome").hidden = false;
  showProblem(null);
  showStats();
  describe();
}

$("gate").addEventListener("submit", (event) => { event.preventDefault(); useKey(); });
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("stop").addEventListener("click", () => state.running?.abort());
$("clear").addEventListener("click", () => { clear(); $("prompt").focus(); });
$("language").addEventListener("click", () => speak(state.language === "zh" ? "en" : "zh"));
$("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("theme", theme);
  showTheme(theme);
});
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = t("copied");
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  if (event.key === "Escape") state.running?.abort();
});
for (const input of document.querySelectorAll("input, select, textarea")) {
  input.addEventListener("input", () => { $("copy").textContent = t("copy"); input.name === "mode" ? (clear(), showMode()) : describe(); });
}

const dark = matchMedia("(prefers-color-scheme: dark)");
showTheme(recall("theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!recall("theme")) showTheme(dark.matches ? "dark" : "light"); });
if (matchMedia("(max-width: 860px)").matches) $("settings").open = false;
const given = recall("language");
speak(given === "en" || given === "zh" ? given : navigator.language.startsWith("zh") ? "zh" : "en");
connect();
