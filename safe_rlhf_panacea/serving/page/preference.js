// λ and the controls that move it.

/** The allowed λ near `values`; entry `held`, if any, keeps its value as far as it can. */
function fit(values, held = -1) {
  const { lower, upper } = facts;
  let result = values.map((v, i) => Math.min(upper[i], Math.max(lower[i], v || 0)));
  for (let round = 0; round < 20; round++) {
    const missing = 1 - sum(result);
    if (Math.abs(missing) < 1e-9) break;
    const room = result.map((v, i) => i === held ? 0 : missing > 0 ? upper[i] - v : v - lower[i]);
    const all = sum(room);
    if (all < 1e-12) { held = -1; continue; }
    const part = Math.min(1, Math.abs(missing) / all) * Math.sign(missing);
    result = result.map((v, i) => v + part * room[i]);
  }
  return rounded(result);
}

/** Three decimals, but for bounds that have more; the largest entry with room takes what is left. */
function rounded(values) {
  const { lower, upper } = facts;
  const result = values.map((v, i) => {
    const near = Math.round(v * 1000) / 1000;
    return near < lower[i] || near > upper[i] ? v : near;
  });
  const missing = 1 - sum(result);
  const room = result.map((v, i) => missing > 0 ? upper[i] - v : v - lower[i]);
  // The largest entry that can: the small ones must not drift apart while a slider moves.
  const able = result.map((v, i) => room[i] >= Math.abs(missing) ? v : -room.length + room[i]);
  const taker = able.indexOf(Math.max(...able));
  result[taker] = Math.round((result[taker] + missing) * 1e6) / 1e6;
  return result;
}

/** A control for λ: calls `moved` with each new one; `set` shows another. */
function control(moved, name) {
  const names = facts.objectives;
  if (names.length < 2) return { node: make("div"), set() {} };
  if (names.length === 2) return slider(moved, name);
  return names.length === 3 ? triangle(moved, name) : sliders(moved, name);
}

function range(label, low, high) {
  return make("input", { type: "range", min: low, max: high, step: 0.01, "aria-label": label });
}

function slider(moved, name) {
  const [first, second] = facts.objectives;
  // To the right there is more of the first, as along the plot's horizontal axis.
  const input = range(`${name}: ${first}`, facts.lower[0], facts.upper[0]);
  const left = make("span"), right = make("span");
  input.addEventListener("input", () => moved(fit([input.valueAsNumber, 1 - input.valueAsNumber])));
  return {
    node: make("div", {}, make("div", { class: "ends" }, left, right), input),
    set(value) {
      left.replaceChildren(second + " ", make("b", {}, show(value[1])));
      right.replaceChildren(make("b", {}, show(value[0])), " " + first);
      input.value = value[0];
      input.setAttribute("aria-valuetext",
        `${first} ${show(value[0])}, ${second} ${show(value[1])}`);
    },
  };
}

function sliders(moved, name) {
  let current = facts.preference;
  const rows = facts.objectives.map((objective, i) => {
    const value = make("b");
    const input = range(`${name}: ${objective}`, facts.lower[i], facts.upper[i]);
    input.addEventListener("input", () => {
      const rest = 1 - current[i], wanted = input.valueAsNumber;
      const others = current.map((v, j) => j === i ? wanted
        : rest > 1e-9 ? v * (1 - wanted) / rest : (1 - wanted) / (current.length - 1));
      moved(fit(others, i));
    });
    const ends = make("div", { class: "ends" },
      make("span", {}, objective), make("span", {}, value));
    return { value, input, node: make("div", {}, ends, input) };
  });
  return {
    node: make("div", {}, ...rows.map(row => row.node)),
    set(value) {
      current = value;
      rows.forEach((row, i) => {
        row.value.textContent = show(value[i]);
        row.input.value = value[i];
      });
    },
  };
}

function triangle(moved, name) {
  const corners = [[30, 262], [310, 262], [170, 24]];
  let current = facts.preference;
  const knob = make("circle", { class: "knob", r: 12 });
  const values = facts.objectives.map((_, i) => make("text", {
    x: corners[i][0], y: i < 2 ? 284 : 14, "text-anchor": ["start", "end", "middle"][i] }));
  values[0].setAttribute("x", 6); values[1].setAttribute("x", 334);
  const svg = make("svg", { viewBox: "0 0 340 292", class: "triangle", tabindex: 0, role: "slider",
    "aria-label": `${name}: arrow keys move it` },
    make("polygon", { points: corners.map(c => c.join()).join(" ") }), ...values, knob);
  const at = event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * 340 / box.width;
    const y = (event.clientY - box.top) * 292 / box.height;
    const third = (262 - y) / 238, second = (x - 30 - third * 140) / 280;
    moved(fit([1 - second - third, second, third].map(v => Math.max(0, v))));
  };
  svg.addEventListener("pointerdown", event => {
    svg.setPointerCapture(event.pointerId);
    at(event);
  });
  svg.addEventListener("pointermove", event => { if (event.buttons) at(event); });
  svg.addEventListener("keydown", event => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const move = { ArrowRight: [-step, step, 0], ArrowLeft: [step, -step, 0],
      ArrowUp: [-step / 2, -step / 2, step], ArrowDown: [step / 2, step / 2, -step] }[event.key];
    if (!move) return;
    event.preventDefault();
    moved(fit(current.map((v, i) => v + move[i])));
  });
  return {
    node: svg,
    set(value) {
      current = value;
      knob.setAttribute("cx", sum(value.map((v, i) => v * corners[i][0])));
      knob.setAttribute("cy", sum(value.map((v, i) => v * corners[i][1])));
      const texts = facts.objectives.map((objective, i) => `${objective} ${show(value[i])}`);
      texts.forEach((text, i) => { values[i].textContent = text; });
      svg.setAttribute("aria-valuetext", texts.join(", "));
      svg.setAttribute("aria-valuenow", value[2]);
    },
  };
}
