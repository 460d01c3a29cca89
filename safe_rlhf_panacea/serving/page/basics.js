"use strict";
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const WAIT = 150;  // milliseconds without a move before an answer is asked for
let facts = null, token = sessionStorage.getItem("token") || "", seed = 1, panes = [];

function make(kind, attributes = {}, ...children) {
  const svg = ["svg", "polygon", "polyline", "circle", "line", "text"].includes(kind);
  const node = svg ? document.createElementNS(SVG, kind) : document.createElement(kind);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);  // strings become text, never markup
  return node;
}
const sum = values => values.reduce((a, b) => a + b, 0);
const list = words => words.join(", ").replace(/, ([^,]*)$/, " and $1");
const show = value => value.toFixed(2);
const headers = () => token ? { Authorization: "Bearer " + token } : {};
