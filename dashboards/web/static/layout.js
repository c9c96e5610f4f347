// Places the graph: nodes in columns, sources first, alert rules and sinks
// last; edges that pass a column have a lane of their own there, shared by all
// edges of one output; every edge ends at a place of its own.

const boxWidth = 152, boxHeight = 36, portHeight = 13, laneHeight = 9, gap = 8, minBetween = 78;

/** layout returns {width, height, boxes: [{x, y, width, height, node}], edges: [{path, x, y, ...edge}]}. */
export function layout(nodes, edges, room) {
  const ops = Math.max(0, ...nodes.filter((n) => n.kind === "operator").map((n) => n.level));
  const rules = nodes.some((n) => n.kind === "alert") ? 1 : 0;
  const columnOf = (n) => n.kind === "sink" ? ops + rules + 1 : n.kind === "alert" ? ops + 1 : n.level;
  const columns = Array.from({ length: Math.max(0, ...nodes.map(columnOf)) + 1 }, () => []);
  const cells = new Map();
  const cell = (key, column, height, node) => {
    const c = { key, column, height, node, before: [], after: [] };
    cells.set(key, c); columns[column].push(c);
    return c;
  };
  for (const n of nodes) {
    const ports = edges.filter((e) => e.to === n.name).length;
    cell(n.name, columnOf(n), Math.max(boxHeight, ports * portHeight + 6), n);
  }
  const routes = [];
  for (const e of edges) {
    const a = cells.get(e.from), b = cells.get(e.to);
    if (!a || !b) continue;
    const via = [a];
    for (let c = a.column + 1; c < b.column; c++) {
      const key = `${e.from}.${e.port ?? ""}|${c}`; // a node's name has neither . nor |
      via.push(cells.get(key) ?? cell(key, c, laneHeight));
    }
    via.push(b);
    for (let i = 1; i < via.length; i++) { via[i].before.push(via[i - 1]); via[i - 1].after.push(via[i]); }
    routes.push({ e, via });
  }

  // Order: each cell to the mean place of its neighbours, forth and back.
  const place = () => {
    for (const list of columns) {
      let y = 0;
      for (const c of list) { c.y = y; y += c.height + gap; }
      list.height = y - gap;
    }
    const tallest = Math.max(...columns.map((l) => l.height));
    for (const list of columns) for (const c of list) c.y += (tallest - list.height) / 2;
    return tallest;
  };
  const middle = (c) => c.y + c.height / 2;
  let height = place();
  for (let sweep = 0; sweep < 8; sweep++) {
    const side = sweep % 2 ? "after" : "before";
    for (const list of sweep % 2 ? [...columns].reverse() : columns) {
      for (const c of list) c.want = c[side].length ? c[side].reduce((sum, o) => sum + middle(o), 0) / c[side].length : middle(c);
      list.sort((a, b) => a.want - b.want);
      height = place();
    }
  }

  const width = Math.max(room, columns.length * (boxWidth + minBetween) - minBetween + 2);
  const step = columns.length > 1 ? (width - boxWidth - 2) / (columns.length - 1) : 0;
  const left = (c) => 1 + c.column * step;
  for (const c of cells.values()) c.y += 1;

  // Ends: an edge's place at its target is by where it comes from.
  const into = new Map();
  for (const r of routes) {
    const b = r.via.at(-1);
    if (!into.has(b)) into.set(b, []);
    into.get(b).push(r);
  }
  for (const [b, list] of into) {
    list.sort((p, q) => middle(p.via.at(-2)) - middle(q.via.at(-2)));
    list.forEach((r, i) => { r.y = middle(b) + (i - (list.length - 1) / 2) * portHeight; });
  }
  return {
    width, height: height + 2,
    boxes: [...cells.values()].filter((c) => c.node).map((c) => ({ x: left(c), y: c.y, width: boxWidth, height: c.height, node: c.node })),
    edges: routes.map(({ e, via, y }) => {
      let x0 = left(via[0]) + boxWidth, y0 = middle(via[0]), path = `M${x0},${y0}`;
      via.slice(1).forEach((c, i) => {
        const end = i === via.length - 2, x1 = left(c), y1 = end ? y : middle(c), bend = x0 + (x1 - x0) * 0.45;
        path += ` C${bend},${y0} ${bend},${y1} ${end ? x1 - 40 : x1},${y1} H${end ? x1 : x1 + boxWidth}`;
        x0 = x1 + boxWidth; y0 = y1;
      });
      return { ...e, path, x: left(via.at(-1)), y };
    }),
  };
}
