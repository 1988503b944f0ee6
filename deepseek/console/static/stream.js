// One streamed request: posts it, reads its server-sent events, and turns every failure into a problem document.

import { identity } from "/static/key.js";

// An error that carries a problem document (RFC 9457) to show.
export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

// Yields the parsed data of each event. Throws ProblemError; an abort passes through as AbortError.
export async function* events(path, body, signal) {
  const response = await fetch(path, {
    method: "POST", headers: { "content-type": "application/json", ...identity() }, body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw new ProblemError(await problemOf(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const frame = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      const event = parse(frame);
      if (event.data === "[DONE]") return;
      const data = JSON.parse(event.data);
      if (event.name === "error") throw new ProblemError(data);
      yield data;
    }
  }
}

function parse(frame) {
  const event = { name: "message", data: "" };
  for (const line of frame.split("\n")) {
    if (line.startsWith("event: ")) event.name = line.slice(7);
    if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}

export async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: `HTTP ${response.status}`, detail: response.statusText };
  }
}
