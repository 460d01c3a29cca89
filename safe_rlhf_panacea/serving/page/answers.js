// Answers as they stream.

class Pane {
  constructor(name, kind) {
    this.answer = make("div", { class: "answer", "aria-live": "polite" });
    this.state = make("p", { class: "state soft" });
    this.control = control(value => this.move(value), name);
    if (facts.objectives.length > 2) kind += " many";
    this.node = make("section", { class: "card pane " + kind, "aria-label": name },
      this.control.node, this.answer, this.state);
    this.set(fit(facts.preference));
  }
  set(value) { this.value = value; this.control.set(value); }
  move(value) {
    this.set(value);
    drawHere();
    keep();
    clearTimeout(this.timer);
    if ($("prompt").value.trim()) this.timer = setTimeout(() => this.ask(), WAIT);
  }
  stop() {
    clearTimeout(this.timer);
    if (this.abort) this.abort.abort();
    this.abort = null;
    this.answer.classList.remove("old");
    busy();
  }
  say(text, bad = false) {
    this.state.textContent = text;
    this.state.classList.toggle("bad", bad);
  }
  async ask() {
    this.stop();
    const abort = this.abort = new AbortController(), started = performance.now();
    this.answer.classList.add("old");
    this.say("…");
    busy();
    try {
      const said = await this.stream(abort, started);
      if (this.abort === abort) this.say(said);
    } catch (error) {
      if (this.abort === abort) this.say(error.message || "the server does not answer", true);
    } finally {
      if (this.abort === abort) { this.abort = null; this.answer.classList.remove("old"); }
      busy();
    }
  }
  async stream(abort, started) {
    const body = { messages: [{ role: "user", content: $("prompt").value }], stream: true, seed,
      temperature: $("temperature").valueAsNumber || 0,
      max_tokens: Math.min($("tokens").valueAsNumber || facts.tokens, facts.max_tokens),
      stream_options: { include_usage: true } };
    if (facts.objectives.length) body.preference = this.value;
    const reply = await fetch("v1/chat/completions", { method: "POST", signal: abort.signal,
      headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!reply.ok) throw new Error(await problem(reply));
    let text = null, tokens = 0;
    for await (const chunk of events(reply)) {
      if (this.abort !== abort) return "";
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
      if (text === null) {
        this.answer.replaceChildren(text = document.createTextNode(""));
        this.answer.classList.remove("old");
      }
      for (const choice of chunk.choices) text.appendData(choice.delta.content || "");
    }
    const seconds = (performance.now() - started) / 1000;
    return `${tokens} tokens in ${seconds.toFixed(1)} s`;
  }
}

async function problem(reply) {
  if (reply.status === 401) $("login").hidden = false;
  try { return (await reply.json()).error.message; } catch { return `HTTP ${reply.status}`; }
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

const shown = () => $("compare").checked ? panes : panes.slice(0, 1);
function busy() { $("stop").hidden = !panes.some(pane => pane.abort); }
function askAll() { keep(); for (const pane of shown()) pane.ask(); }
