// The operator page: asks the gateway for its state once a second and draws
// it. Only text nodes are made of what comes from the plant, never markup.
import { layout } from "./layout.js";

const $ = (s) => document.querySelector(s);
const el = (tag, props = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
};
const si = (v) => v === null || v === undefined ? "–"
  : Math.abs(v) >= 1e6 ? (v / 1e6).toFixed(2) + " M" : Math.abs(v) >= 1e4 ? (v / 1e3).toFixed(1) + " k"
  : Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1) : Number(v.toPrecision(3)).toString();
const clock = (t) => new Date(t).toLocaleTimeString([], { hour12: false });
const ms = (t) => new Date(t).getTime();
const assetOf = (tag) => tag.slice(0, Math.max(0, tag.lastIndexOf("/")));
const maxCharts = 8;
let picked = [];   // tags the user chose, or those with the newest anomalies
let known = "";

async function getJSON(path) {
  const r = await fetch(path, { cache: "no-store" });
  if (!r.ok) throw new Error(r.status);
  return r.json();
}

// path shows a tag or an asset, which may break behind its slashes.
const path = (s) => s.split("/").flatMap((part, i, all) => i < all.length - 1 ? [part + "/", el("wbr")] : [part]);

// fill replaces the rows of a list only when what they show has changed, so
// that focus and selection stay.
function fill(body, items, row) {
  const key = JSON.stringify(items);
  if (body.shown === key) return;
  body.shown = key;
  body.replaceChildren(...items.map(row));
}

function figures(s) {
  const dropped = Object.values(s.dropped).reduce((a, b) => a + b, 0);
  const rows = [
    ["readings/s", si(s.rate)], ["ingested", si(s.readings.ingested)], ["processed", si(s.readings.processed)],
    ["latency p50 / p99", s.latency_ms ? s.latency_ms.map((v) => si(v)).join(" / ") + " ms" : "–"],
    ["waiting batches", s.backlog], ["dropped", dropped, dropped > 0], ["active alerts", s.active, s.active > 0],
  ];
  $("#figures").replaceChildren(...rows.map(([k, v, bad]) =>
    el("div", {}, el("dt", { textContent: k }), el("dd", { textContent: v, className: bad ? "bad" : "" }))));
  $("#name").textContent = s.name;
}

function alerts(s) {
  const text = `${s.active} active`;
  if ($("#active").textContent !== text) $("#active").textContent = text;
  fill($("#alerts tbody"), s.alerts.slice(0, 60), (a) => {
    const what = el("td", { title: a.message }, el("i", { className: "sev " + a.severity, title: a.severity }), el("span", { className: "sr", textContent: a.severity + " " }), a.rule);
    const where = el("button", { title: "show its trend" }, ...path(a.tag || a.asset));
    where.addEventListener("click", () => pick(a.tag));
    return el("tr", { className: a.cleared ? "cleared" : "" }, el("td", { textContent: clock(a.raised) }), what, el("td", {}, where),
      el("td", { textContent: a.cleared ? "cleared " + clock(a.cleared) : "active" }));
  });
}

function faults(s) {
  $("#faults").hidden = $("#truth").hidden = !s.faults;
  fill($("#faults tbody"), (s.faults || []).slice(0, 40), (f) => {
    const found = f.delay_s !== null;
    return el("tr", {}, el("td", { textContent: clock(f.start) }), el("td", { textContent: f.kind.replaceAll("_", " ") }),
      el("td", {}, ...path(f.asset)), el("td", { textContent: found ? `after ${f.delay_s.toFixed(1)} s` : "not yet", className: found ? "yes" : "no" }));
  });
}

const rank = (severity) => ["critical", "high", "warning", "medium"].indexOf(severity) + 1 || 9;

// follow picks the tags to show: of each asset with an active alert, the
// gravest and then the newest first, or an anomaly, one tag, then more of them.
function follow(s) {
  const has = new Set(s.tags);
  const hot = [...new Set([...s.alerts.filter((a) => !a.cleared).sort((a, b) => rank(a.severity) - rank(b.severity)).map((a) => a.tag), ...s.suspects])].filter((t) => has.has(t));
  const assets = [...new Set(hot.map(assetOf))].slice(0, maxCharts);
  const want = assets.map((a) => picked.find((t) => assetOf(t) === a && hot.includes(t)) ?? hot.find((t) => assetOf(t) === a));
  for (const t of [...hot, ...s.tags]) {
    if (want.length >= maxCharts) break;
    if (!want.includes(t)) want.push(t);
  }
  return [...picked.filter((t) => want.includes(t)), ...want.filter((t) => !picked.includes(t))];
}

function tagList(s) {
  const key = s.tags.length + ":" + s.tags.at(-1);
  if (key !== known) {
    known = key;
    $("#tags").replaceChildren(...s.tags.map((t) => el("option", { value: t })));
  }
  if ($("#auto").checked) picked = follow(s);
}

function pick(tag) {
  if (!tag) return;
  $("#auto").checked = false;
  picked = [tag, ...picked.filter((t) => t !== tag)].slice(0, maxCharts);
}

$("#pick").addEventListener("change", (e) => { pick(e.target.value); e.target.value = ""; });

const boxOf = new Map(); // tag → figure

function chartBox(tag) {
  let f = boxOf.get(tag);
  if (f) return f;
  const close = el("button", { textContent: "×", title: "remove" });
  close.setAttribute("aria-label", "remove " + tag);
  close.addEventListener("click", () => { $("#auto").checked = false; picked = picked.filter((t) => t !== tag); f.remove(); });
  const canvas = el("canvas");
  canvas.setAttribute("role", "img");
  f = el("figure", {}, el("figcaption", {}, el("b", { textContent: tag, title: tag }), el("output"), close), el("div", {}, canvas));
  f.dataset.tag = tag;
  boxOf.set(tag, f);
  return f;
}

function charts(list, s) {
  const byTag = new Map(list.map((t) => [t.tag, t]));
  const boxes = picked.filter((t) => byTag.has(t)).map(chartBox);
  const holder = $("#charts");
  if (boxes.length !== holder.children.length || boxes.some((b, i) => holder.children[i] !== b)) holder.replaceChildren(...boxes);
  for (const tag of [...boxOf.keys()]) if (!picked.includes(tag)) boxOf.delete(tag);
  // All have the same time axis: a minute, or less as long as there is less.
  const t1 = Math.max(...list.map((d) => d.t.at(-1) ?? 0)), t00 = Math.min(...list.map((d) => d.t[0] ?? t1));
  const span = Math.min(60000, Math.max(15000, t1 - t00));
  for (const b of boxes) {
    const tag = b.dataset.tag, here = s.alerts.filter((a) => a.tag === tag);
    b.classList.toggle("alert", here.some((a) => !a.cleared));
    draw(b, byTag.get(tag), t1, span, here, (s.faults || []).filter((f) => f.asset === assetOf(tag) || f.tags?.includes(tag)));
  }
}

const severityColor = { critical: "#ff6b62", high: "#ff6b62", warning: "#f0b24a", medium: "#f0b24a" };

function draw(box, d, t1, span, alerts, faults) {
  const c = box.querySelector("canvas"), t0 = t1 - span;
  const scale = devicePixelRatio || 1, w = c.clientWidth, h = c.clientHeight;
  const last = d.v.at(-1), now = last === null ? "Bad" : last === undefined ? "–" : si(last) + (d.unit ? " " + d.unit : "");
  box.querySelector("output").textContent = now;
  const marks = d.marks.filter((m) => m.t >= t0);
  c.setAttribute("aria-label", `trend of ${d.tag}: ${now} now, ${marks.length} anomalies in ${Math.round(span / 1000)} s`);
  if (!w || !d.t.length) return;
  c.width = Math.round(w * scale); c.height = Math.round(h * scale);
  const g = c.getContext("2d");
  g.scale(scale, scale);
  let from = d.t.findIndex((t) => t >= t0);
  if (from < 0) from = d.t.length;
  const vs = d.v.slice(from).concat(marks.map((m) => m.v)).filter((v) => v !== null);
  let lo = vs.length ? Math.min(...vs) : 0, hi = vs.length ? Math.max(...vs) : 1;
  const pad = (hi - lo || Math.abs(hi) * 0.02 || 1) * 0.08;
  lo -= pad; hi += pad;
  const digits = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(hi - lo))));
  g.font = "10px system-ui"; g.lineWidth = 1;
  const labels = [lo + pad, (lo + hi) / 2, hi - pad].map((v) => [v, v.toFixed(digits)]);
  const left = Math.max(...labels.map(([, l]) => g.measureText(l).width)) + 8, right = w - 3, bottom = h - 16;
  const x = (t) => left + (t - t0) / span * (right - left), y = (v) => 4 + (hi - v) / (hi - lo) * (bottom - 8);
  g.fillStyle = "#8fa3ae"; g.strokeStyle = "#222e36"; g.textAlign = "right";
  for (const [v, l] of labels) {
    g.fillText(l, left - 5, y(v) + 3);
    g.beginPath(); g.moveTo(left, y(v)); g.lineTo(right, y(v)); g.stroke();
  }
  const every = span > 40000 ? 20 : span > 20000 ? 10 : 5;
  for (let k = 0; k * 1000 <= span; k += every) {
    const at = x(t1 - k * 1000);
    if (at < left + 8) break;
    g.textAlign = k ? "center" : "right";
    g.fillText(k ? `−${k} s` : "now", at, h - 4);
  }
  g.fillStyle = "#ff6b6240";
  for (let i = from; i < d.t.length; i++) {
    if (d.v[i] !== null) continue;
    const begin = i;
    while (i < d.t.length && d.v[i] === null) i++;
    const end = i < d.t.length ? d.t[i] : t1;
    g.fillRect(x(d.t[begin]), 2, Math.max(2, x(end) - x(d.t[begin])), bottom - 2);
  }
  const upright = (t, color, dash) => {
    if (t < t0) return;
    g.strokeStyle = color; g.setLineDash(dash); g.lineWidth = 1.5;
    g.beginPath(); g.moveTo(x(t), 2); g.lineTo(x(t), bottom); g.stroke();
    g.setLineDash([]);
  };
  for (const f of faults) upright(ms(f.start), "#dbe5ea", [2, 3]);
  for (const a of alerts) upright(ms(a.raised), severityColor[a.severity] ?? "#6db3f2", []);
  g.strokeStyle = "#8fd0ff"; g.lineWidth = 1.3; g.lineJoin = "round"; g.beginPath();
  let pen = false;
  for (let i = from; i < d.t.length; i++) {
    if (d.v[i] === null) { pen = false; continue; }
    pen ? g.lineTo(x(d.t[i]), y(d.v[i])) : g.moveTo(x(d.t[i]), y(d.v[i]));
    pen = true;
  }
  g.stroke();
  g.fillStyle = "#ff6b62";
  for (const m of marks) if (m.v !== null) { g.beginPath(); g.arc(x(m.t), y(m.v), 2.2, 0, 7); g.fill(); }
}

const svgEl = (tag, attrs, ...children) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  e.append(...children);
  return e;
};

function graph(s) {
  const svg = $("#graph svg"), g = layout(s.nodes, s.edges, svg.parentElement.clientWidth);
  svg.setAttribute("width", g.width); svg.setAttribute("height", g.height);
  const paths = [], labels = [], boxes = [];
  for (const e of g.edges) {
    paths.push(svgEl("path", { d: e.path, class: e.rate > 0 ? "live" : "", "stroke-width": e.rate > 0 ? 1 + Math.log10(1 + e.rate) * 0.3 : 1 },
      svgEl("title", {}, `${e.from} → ${e.to}: ${si(e.rate)} rows/s, ${si(e.rows)} rows`)));
    const text = si(e.rate), width = text.length * 6.2 + 5;
    labels.push(svgEl("rect", { x: e.x - 7 - width, y: e.y - 6, width, height: 12, class: "back" }),
      svgEl("text", { x: e.x - 9, y: e.y + 3.6, "text-anchor": "end", class: e.rate > 0 ? "rate" : "rate still" }, text));
  }
  for (const { x, y, width, height, node: n } of g.boxes) {
    const waiting = s.queues?.[n.name];
    const detail = [n.module ? n.module.split("@")[0] : n.kind === "alert" ? "" : n.type, n.ns_per_row ? si(n.ns_per_row) + " ns/row" : "",
      n.active ? n.active + " active" : "", waiting ? si(waiting) + " waiting" : "", n.up === false ? "not connected" : ""].filter(Boolean).join(" · ");
    const mid = y + height / 2;
    boxes.push(svgEl("g", {}, svgEl("title", {}, [n.name, n.kind, n.type, n.module, n.engine].filter(Boolean).join(" · ")),
      svgEl("rect", { x, y, width, height, rx: 6, class: [n.kind, n.up === false ? "down" : "", n.active ? "active" : ""].join(" ") }),
      svgEl("text", { x: x + 9, y: mid - 2.5 }, n.name), svgEl("text", { x: x + 9, y: mid + 11.5, class: "dim" }, detail)));
  }
  svg.replaceChildren(...paths, ...labels, ...boxes);
}

async function tick() {
  try {
    const s = await getJSON("api/state");
    figures(s); alerts(s); faults(s); tagList(s); graph(s);
    const q = picked.map((t) => "tag=" + encodeURIComponent(t)).join("&");
    charts(q ? await getJSON("api/trend?" + q) : [], s);
    $("#offline").hidden = true;
  } catch (e) {
    $("#offline").hidden = false;
  }
  setTimeout(tick, 1000);
}
tick();
