// The operator page: asks the gateway for its state once a second and draws
// it. Only text nodes are made of what comes from the plant, never markup.

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
const maxCharts = 8;
let picked = [];   // tags the user chose, or those with the newest anomalies
let known = "";

async function getJSON(path) {
  const r = await fetch(path, { cache: "no-store" });
  if (!r.ok) throw new Error(r.status);
  return r.json();
}

function figures(s) {
  const dropped = Object.values(s.dropped).reduce((a, b) => a + b, 0);
  const rows = [
    ["readings/s", si(s.rate)], ["ingested", si(s.readings.ingested)], ["processed", si(s.readings.processed)],
    ["latency p50 / p99", s.latency_ms ? s.latency_ms.map((v) => si(v)).join(" / ") + " ms" : "–"],
    ["waiting batches", si(s.backlog)], ["dropped", si(dropped), dropped > 0], ["active alerts", s.active, s.active > 0],
  ];
  $("#figures").replaceChildren(...rows.map(([k, v, bad]) =>
    el("div", {}, el("dt", { textContent: k }), el("dd", { textContent: v, className: bad ? "bad" : "" }))));
  $("#name").textContent = s.name;
}

function alerts(s) {
  $("#active").textContent = `${s.active} active`;
  $("#alerts tbody").replaceChildren(...s.alerts.slice(0, 60).map((a) => {
    const what = el("td", { title: a.message }, el("i", { className: "sev " + a.severity }), a.rule);
    const where = el("td", { textContent: a.asset || a.tag, title: a.tag });
    return el("tr", { className: a.cleared ? "cleared" : "" }, el("td", { textContent: clock(a.raised) }), what, where,
      el("td", { textContent: a.cleared ? "cleared " + clock(a.cleared) : "active" }));
  }));
}

function faults(s) {
  $("#faults").hidden = !s.faults;
  if (!s.faults) return;
  const begun = s.faults.filter((f) => new Date(f.start).getTime() <= s.now).reverse();
  $("#faults tbody").replaceChildren(...begun.slice(0, 40).map((f) => {
    const tags = new Set(f.tags || []);
    const end = f.end ? new Date(f.end).getTime() : Infinity;
    const hit = s.alerts.filter((a) => (a.asset === f.asset || tags.has(a.tag)) &&
      new Date(a.raised) >= new Date(f.start) && new Date(a.raised).getTime() <= end + 30000).pop();
    const found = hit ? `${hit.rule}, after ${((new Date(hit.raised) - new Date(f.start)) / 1000).toFixed(1)} s` : "not yet";
    return el("tr", {}, el("td", { textContent: clock(f.start) }), el("td", { textContent: f.kind.replaceAll("_", " ") }),
      el("td", { textContent: f.asset }), el("td", { textContent: found, className: hit ? "yes" : "no" }));
  }));
}

function tagList(s) {
  const key = s.tags.length + ":" + s.tags.at(-1);
  if (key !== known) {
    known = key;
    $("#tags").replaceChildren(...s.tags.map((t) => el("option", { value: t })));
  }
  if ($("#auto").checked) {
    const hot = [...new Set([...s.alerts.filter((a) => !a.cleared).map((a) => a.tag), ...s.suspects])].filter((t) => s.tags.includes(t));
    const kept = picked.filter((t) => hot.slice(0, maxCharts).includes(t));
    picked = [...kept, ...hot.filter((t) => !kept.includes(t)), ...s.tags.filter((t) => !hot.includes(t))].slice(0, maxCharts);
  }
}

$("#pick").addEventListener("change", (e) => {
  if (!e.target.value) return;
  $("#auto").checked = false;
  picked = [e.target.value, ...picked.filter((t) => t !== e.target.value)].slice(0, maxCharts);
  e.target.value = "";
});

const figuresByTag = new Map();

function charts(list, s) {
  const active = new Set(s.alerts.filter((a) => !a.cleared).map((a) => a.tag));
  const byTag = new Map(list.map((t) => [t.tag, t]));
  const boxes = picked.filter((t) => byTag.has(t)).map((tag) => {
    let f = figuresByTag.get(tag);
    if (!f) {
      const close = el("button", { textContent: "×", title: "remove" });
      close.setAttribute("aria-label", "remove " + tag);
      close.addEventListener("click", () => { $("#auto").checked = false; picked = picked.filter((t) => t !== tag); f.remove(); });
      f = el("figure", {}, el("figcaption", {}, el("b", { textContent: tag, title: tag }), el("output"), close), el("canvas"));
      figuresByTag.set(tag, f);
    }
    f.classList.toggle("alert", active.has(tag));
    return f;
  });
  const holder = $("#charts");
  if (boxes.length !== holder.children.length || boxes.some((b, i) => holder.children[i] !== b)) holder.replaceChildren(...boxes);
  for (const [tag, f] of figuresByTag) if (!picked.includes(tag)) figuresByTag.delete(tag);
  for (const b of boxes) draw(b, byTag.get(b.querySelector("b").textContent), s.now);
}

function draw(box, d, now) {
  const last = d.v?.at(-1);
  box.querySelector("output").textContent = (last === null ? "Bad" : si(last)) + (d.unit ? " " + d.unit : "");
  const c = box.querySelector("canvas");
  const scale = devicePixelRatio || 1, w = c.clientWidth, h = c.clientHeight;
  if (!w || !d.t?.length) return;
  c.width = w * scale; c.height = h * scale;
  const g = c.getContext("2d");
  g.scale(scale, scale);
  const left = 44, bottom = h - 16, span = 60000, t1 = Math.max(now, d.t.at(-1)), t0 = t1 - span;
  const from = Math.max(0, d.t.findIndex((t) => t >= t0));
  const vs = d.v.slice(from).filter((v) => v !== null);
  let lo = Math.min(...vs), hi = Math.max(...vs);
  if (!vs.length) { lo = 0; hi = 1; }
  const pad = (hi - lo || Math.abs(hi) * 0.02 || 1) * 0.1;
  lo -= pad; hi += pad;
  const x = (t) => left + (t - t0) / span * (w - left - 4), y = (v) => 4 + (hi - v) / (hi - lo) * (bottom - 8);
  g.font = "10px system-ui"; g.fillStyle = "#8499a5"; g.strokeStyle = "#26343d"; g.lineWidth = 1;
  for (const v of [lo + pad, (lo + hi) / 2, hi - pad]) {
    g.fillText(si(v), 2, y(v) + 3);
    g.beginPath(); g.moveTo(left, y(v)); g.lineTo(w, y(v)); g.stroke();
  }
  for (let s = 0; s <= 60; s += 20) g.fillText(s ? `-${s} s` : "now", Math.min(x(t1 - s * 1000) - 8, w - 24), h - 4);
  g.fillStyle = "#ff6b6238";
  for (let i = from; i < d.t.length; i++) if (d.v[i] === null) g.fillRect(x(d.t[i]), 2, Math.max(2, x(d.t[i + 1] ?? t1) - x(d.t[i])), bottom - 2);
  g.strokeStyle = "#8fd0ff"; g.lineWidth = 1.4; g.beginPath();
  let pen = false;
  for (let i = from; i < d.t.length; i++) {
    if (d.v[i] === null) { pen = false; continue; }
    pen ? g.lineTo(x(d.t[i]), y(d.v[i])) : g.moveTo(x(d.t[i]), y(d.v[i]));
    pen = true;
  }
  g.stroke();
  g.fillStyle = "#ff6b62";
  for (const m of d.marks) if (m.t >= t0 && m.v !== null) { g.beginPath(); g.arc(x(m.t), y(m.v), 2.6, 0, 7); g.fill(); }
}

const NS = "http://www.w3.org/2000/svg";
const svgEl = (tag, attrs, text) => {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
};

function graph(s) {
  const svg = $("#graph svg");
  const levels = [];
  const sinkLevel = Math.max(0, ...s.nodes.map((n) => n.level));
  for (const n of s.nodes) (levels[n.kind === "sink" ? sinkLevel : n.level] ??= []).push(n);
  const bw = 158, bh = 40, gapY = 12, rows = Math.max(1, ...levels.map((l) => l?.length || 0));
  const width = Math.max(svg.parentElement.clientWidth - 26, levels.length * (bw + 74)), height = rows * (bh + gapY) + 4;
  const stepX = levels.length > 1 ? (width - bw - 4) / (levels.length - 1) : 0;
  svg.setAttribute("width", width); svg.setAttribute("height", height);
  const at = new Map(), out = [];
  levels.forEach((list, l) => (list || []).forEach((n, i) =>
    at.set(n.name, { x: 2 + l * stepX, y: 2 + (height - list.length * (bh + gapY)) / 2 + i * (bh + gapY), n })));
  const labels = [];
  for (const e of s.edges) {
    const a = at.get(e.from), b = at.get(e.to);
    if (!a || !b) continue;
    const x1 = a.x + bw, y1 = a.y + bh / 2, x2 = b.x, y2 = b.y + bh / 2, m = (x1 + x2) / 2;
    out.push(svgEl("path", { d: `M${x1},${y1} C${m},${y1} ${m},${y2} ${x2},${y2}`, class: e.rate > 0 ? "live" : "" }));
    if (e.rate > 0) {
      const t = si(e.rate), g = svgEl("g", { class: "rate" }), f = b.n.level - a.n.level > 1 || s.edges.length > 30 ? 0.86 : 0.5;
      const px = x1 + (x2 - x1) * f, k = f * f * (3 - 2 * f), py = y1 + (y2 - y1) * k;
      g.append(svgEl("rect", { x: px - t.length * 3.2 - 3, y: py - 7, width: t.length * 6.4 + 6, height: 14, rx: 3 }),
        svgEl("text", { x: px, y: py + 3.5, "text-anchor": "middle", class: "dim" }, t));
      labels.push(g);
    }
  }
  for (const { x, y, n } of at.values()) {
    const g = svgEl("g", {}), detail = [n.type, n.engine, n.ns_per_row ? si(n.ns_per_row) + " ns/row" : "",
      s.queues?.[n.name] ? s.queues[n.name] + " waiting" : "", n.up === false ? "not connected" : ""].filter(Boolean).join(" · ");
    g.append(svgEl("rect", { x, y, width: bw, height: bh, rx: 6, class: n.kind + (n.up === false ? " down" : "") }),
      svgEl("text", { x: x + 9, y: y + 17 }, n.name), svgEl("text", { x: x + 9, y: y + 32, class: "dim" }, detail));
    out.push(g);
  }
  svg.replaceChildren(...out, ...labels);
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
