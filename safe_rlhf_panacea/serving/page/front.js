// The trained front, with a dot where λ is.

let plots = [];  // functions that move their plot's dots

/** The objectives at λ, between the points that were measured. */
function between(points, value) {
  if (value.length > 2) {  // weights that fall with the distance
    const weights = points.map(point =>
      1 / (sum(point.preference.map((v, i) => (v - value[i]) ** 2)) ** 2 + 1e-9));
    return value.map((_, j) =>
      sum(points.map((point, i) => point.objectives[j] * weights[i])) / sum(weights));
  }
  const place = points.findIndex(point => point.preference[0] >= value[0]);
  if (place <= 0) return points.at(place).objectives;
  const [low, high] = [points[place - 1], points[place]];
  const part = (value[0] - low.preference[0]) / (high.preference[0] - low.preference[0]);
  return low.objectives.map((v, j) => v + part * (high.objectives[j] - v));
}

/** From an objective's values to pixels, with a margin around the points. */
function scale(front, axis, from, to) {
  const all = front.points.map(point => point.objectives[axis]);
  const low = Math.min(...all), high = Math.max(...all), margin = (high - low || 1) * 0.08;
  const at = value => from + (value - low + margin) / (high - low + 2 * margin) * (to - from);
  return { at, low, high };
}

function plot(front, a, b) {
  const W = 320, H = 270, L = 58, B = H - 40, R = W - 12, T = 12;
  const x = scale(front, a, L, R), y = scale(front, b, B, T);
  const place = point => [x.at(point.objectives[a]), y.at(point.objectives[b])];
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": `${front.axis_labels[a]} against ${front.axis_labels[b]}` },
    make("polyline", { class: "axis", points: `${L},${T} ${L},${B} ${R},${B}` }),
    make("text", { class: "name", x: (L + R) / 2, y: H - 6, "text-anchor": "middle" },
      front.axis_labels[a]),
    make("text", { class: "name", x: -(T + B) / 2, y: 12, "text-anchor": "middle",
      transform: "rotate(-90)" }, front.axis_labels[b]));
  for (const value of new Set([x.low, x.high])) {
    svg.append(make("text", { class: "tick", x: x.at(value), y: B + 16, "text-anchor": "middle" },
      value.toPrecision(2)));
  }
  for (const value of new Set([y.low, y.high])) {
    svg.append(make("text", { class: "tick", x: L - 5, y: y.at(value) + 4, "text-anchor": "end" },
      value.toPrecision(2)));
  }
  if (front.objectives.length === 2) {
    svg.append(make("polyline", { class: "trail", points: front.points.map(place).join(" ") }));
  }
  for (const point of front.points) {
    const [cx, cy] = place(point);
    svg.append(make("circle", { class: "point", r: 4, cx, cy }));
  }
  const dots = ["first", "second"].map(kind => make("circle", { class: "here " + kind, r: 8 }));
  svg.append(dots[1], dots[0]);
  plots.push(() => dots.forEach((dot, i) => {
    const pane = shown()[i];
    dot.setAttribute("visibility", pane ? "visible" : "hidden");
    if (!pane) return;
    const value = between(front.points, pane.value);
    dot.setAttribute("cx", x.at(value[a]));
    dot.setAttribute("cy", y.at(value[b]));
  }));
  return svg;
}

function drawFront(front) {
  $("front").hidden = !front;
  if (!front) return;
  front.points.sort((p, q) => p.preference[0] - q.preference[0]);
  const places = front.objectives.map((_, i) => i);
  const pairs = places.flatMap(a => places.slice(a + 1).map(b => [a, b]));
  plots = [];
  $("plots").replaceChildren(...pairs.slice(0, 6).map(([a, b]) => plot(front, a, b)));
  $("below").classList.toggle("wide", pairs.length === 1);
}

function drawHere() { for (const draw of plots) draw(); }
