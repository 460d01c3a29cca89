// Links, and what happens first.

function keep() {
  const parts = new URLSearchParams({ p: $("prompt").value, t: $("temperature").value });
  if (facts.objectives.length) parts.set("l", panes[0].value.join());
  if ($("compare").checked) parts.set("c", panes[1].value.join());
  history.replaceState(null, "", "#" + parts);
}

/** What a link carries; whether it had a prompt. */
function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const vector = key => {
    const values = (parts.get(key) || "").split(",").map(Number);
    const right = values.length === facts.objectives.length && values.every(Number.isFinite);
    return right ? fit(values) : null;
  };
  $("prompt").value = parts.get("p") || "";
  if (parts.has("t")) $("temperature").value = Number(parts.get("t")) || 0;
  if (vector("l")) panes[0].set(vector("l"));
  if (vector("c")) panes[1].set(vector("c"));
  $("compare").checked = parts.has("c");
  compare();
  return $("prompt").value.trim() !== "";
}

function compare() {
  const two = $("compare").checked;
  panes[1].node.hidden = !two;
  if (!two) panes[1].stop();
  for (const id of ["panes", "below"]) $(id).classList.toggle("two", two);
  drawHere();
}

/** Prompts to begin with; a click asks one. */
function offer(prompts) {
  $("examples").replaceChildren(...prompts.map(text => {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => { $("prompt").value = text; askAll(); });
    return button;
  }));
}

async function start() {
  const reply = await fetch("panacea.json", { headers: headers() });
  if (!reply.ok) { $("about").textContent = await problem(reply); return; }
  $("login").hidden = true;
  facts = await reply.json();
  const names = facts.objectives;
  $("name").textContent = document.title = facts.model;
  $("about").textContent = names.length > 1 ? `one model, any weight of ${list(names)}` : "";
  $("note").textContent = facts.examples.note;
  offer(facts.examples.prompts);
  $("tokens").max = facts.max_tokens;
  $("tokens").value = facts.tokens;
  panes = [new Pane("λ", "first"), new Pane("second λ", "second")];
  if (names.length === 2) panes[1].set(fit([facts.upper[0], 1 - facts.upper[0]]));
  $("panes").replaceChildren(...panes.map(pane => pane.node));
  $("compare").parentElement.hidden = names.length < 2;
  drawFront(facts.front);
  if (restore()) askAll();
}

$("ask").addEventListener("submit", event => { event.preventDefault(); seed += 1; askAll(); });
$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => { for (const pane of panes) pane.stop(); });
$("compare").addEventListener("change", () => {
  compare(); keep();
  if ($("compare").checked && $("prompt").value.trim()) panes[1].ask();
});
$("link").addEventListener("click", async () => {
  keep();
  try { await navigator.clipboard.writeText(location.href); $("copied").textContent = "copied"; }
  catch { $("copied").textContent = "it is in the address bar"; }
  setTimeout(() => { $("copied").textContent = ""; }, 3000);
});
$("login").addEventListener("submit", event => {
  event.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("token", token);
  start();
});
addEventListener("hashchange", () => { if (facts && restore()) askAll(); });
start();
