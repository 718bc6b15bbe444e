"use strict";
// Drawings as SVG. Every text is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  for (const child of children) node.append(child);
  return node;
}

function picture(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

/** Floor, ready replicas and demand over the last hour; rows are [at, floor, ready, demand, ...]. */
function historyChart(rows, now, label) {
  const width = 560, height = 190, left = 30, right = 8, top = 8, bottom = 22;
  const root = picture(width, height, label);
  // What is known of the last hour, five minutes at least.
  const span = Math.min(3600, 300 * Math.max(1, Math.ceil((now - (rows[0]?.[0] ?? now)) / 300)));
  const begin = now - span;
  const top_value = Math.max(1, ...rows.map((row) => Math.max(row[1] ?? 0, row[2] ?? 0, row[3] ?? 0)));
  const x = (at) => left + (Math.max(0, at - begin) / span) * (width - left - right);
  const y = (value) => height - bottom - (value / top_value) * (height - top - bottom);
  const step = Math.max(1, Math.ceil(top_value / 4));
  for (let value = 0; value <= top_value; value += step) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  for (const minutes of [span / 60, span / 120, 0]) {
    root.append(svg("text", { x: x(now - minutes * 60), y: height - 6, "text-anchor": minutes === span / 60 ? "start" : minutes ? "middle" : "end" },
      minutes ? `-${minutes} min` : "now"));
  }
  const path = (column) => {
    let text = "", previous = null;
    for (const row of rows) {
      const value = row[column];
      if (value === null) { if (previous !== null) text += `H${x(row[0]).toFixed(1)}`; previous = null; continue; }
      text += previous === null ? `M${x(row[0]).toFixed(1)} ${y(value).toFixed(1)}` : `H${x(row[0]).toFixed(1)}V${y(value).toFixed(1)}`;
      previous = value;
    }
    return previous === null ? text : `${text}H${x(now).toFixed(1)}`;
  };
  const floor = path(1);
  if (floor) root.append(svg("path", { class: "area floor", d: `${floor}V${y(0)}H${x(rows[0][0]).toFixed(1)}Z` }));
  for (const [column, name] of [[3, "demand"], [2, "ready"], [1, "floor"]]) {
    const d = path(column);
    if (d) root.append(svg("path", { class: `line ${name}`, d }));
  }
  return root;
}

/** Phases of starts one below the other: [[title, [[phase, seconds], ...], total], ...]. */
function waterfall(starts, label) {
  const width = 560, left = 86, right = 58, row = 15;
  const longest = Math.max(0.001, ...starts.map(([, phases, total]) => Math.max(total ?? 0, phases.reduce((sum, [, s]) => sum + s, 0))));
  const scale = (seconds) => (seconds / longest) * (width - left - right);
  const rows = starts.reduce((sum, [, phases]) => sum + Math.max(1, phases.length) + 1.4, 0);
  const root = picture(width, Math.max(20, rows * row), label);
  let y = 12;
  for (const [title, phases, total] of starts) {
    root.append(svg("text", { x: 0, y, class: "name" }, title));
    y += row;
    let begin = 0;
    const parts = phases.length ? phases : [["start", total ?? 0]];
    parts.forEach(([name, seconds]) => {
      root.append(svg("text", { x: left - 6, y, "text-anchor": "end" }, name),
        svg("rect", { class: `p${PHASES.indexOf(name) < 0 ? 0 : PHASES.indexOf(name)}`, x: left + scale(begin), y: y - 9, height: 10, width: Math.max(1, scale(seconds)), rx: 2 }),
        svg("text", { x: Math.min(width - right, left + scale(begin + seconds)) + 4, y }, `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`));
      begin += seconds;
      y += row;
    });
    y += row * 0.4;
  }
  return root;
}
const PHASES = ["queue", "schedule", "restore", "import", "device", "weights", "init", "warmup", "prefill"];

/** Seven days, one a row, with the floor that the schedule asks for. */
function calendarChart(calendar, label) {
  const width = 560, left = 74, right = 6, row = 22, top = 16;
  const root = picture(width, top + row * calendar.days.length + 4, label);
  const x = (hour) => left + (hour / 24) * (width - left - right);
  for (let hour = 0; hour <= 24; hour += 6) {
    root.append(svg("line", { class: "grid", x1: x(hour), x2: x(hour), y1: top, y2: top + row * calendar.days.length }),
      svg("text", { x: x(hour), y: 11, "text-anchor": hour === 24 ? "end" : "middle" }, `${String(hour).padStart(2, "0")}:00`));
  }
  const most = Math.max(1, ...calendar.days.flatMap((day) => day.parts.map((part) => part[2])));
  calendar.days.forEach((day, index) => {
    const y = top + index * row;
    const date = new Date(`${day.date}T12:00:00Z`);
    root.append(svg("text", { x: 0, y: y + 15 }, date.toLocaleDateString(undefined, { weekday: "short", day: "numeric", month: "short", timeZone: "UTC" })));
    for (const [from, to, replicas, floor, reason] of day.parts) {
      const height = 6 + 12 * (replicas / most);
      const bar = svg("rect", { class: "bar", x: x(from), y: y + 20 - height, width: Math.max(1, x(to) - x(from)), height, rx: 2 });
      bar.append(svg("title", {}, `${floor}: ${reason}`));
      root.append(bar);
      if (x(to) - x(from) > 16) root.append(svg("text", { x: (x(from) + x(to)) / 2, y: y + 16, "text-anchor": "middle", class: "name" }, String(replicas)));
    }
  });
  root.append(svg("line", { class: "now", x1: x(calendar.now), x2: x(calendar.now), y1: top, y2: top + row }));
  return root;
}

/** An agent: queues, who calls, who is called. */
function agentGraph(agent, services) {
  const box = 186, gap = 44, high = 46;
  const short = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);
  const called = new Set(agent.calls.map(([, to]) => to));
  const columns = [agent.queues.map(([from]) => from), agent.stages.filter((s) => !called.has(s.service)).map((s) => s.service),
    agent.stages.filter((s) => called.has(s.service)).map((s) => s.service)].filter((column) => column.length);
  const rows = Math.max(...columns.map((column) => column.length));
  const width = Math.max(660, columns.length * (box + gap) - gap + 4), height = rows * (high + 10) + 4;
  const root = picture(width, height, `The stages of ${agent.id}`);
  const at = new Map();
  columns.forEach((column, c) => column.forEach((name, r) => at.set(name, [2 + c * (box + gap), 2 + r * (high + 10)])));
  for (const [from, to] of [...agent.queues, ...agent.calls]) {
    const a = at.get(from), b = at.get(to);
    if (!a || !b) continue;
    const [x1, y1, x2, y2] = [a[0] + box, a[1] + high / 2, b[0], b[1] + high / 2];
    root.append(svg("path", { class: "edge", d: `M${x1} ${y1}C${x1 + gap / 2} ${y1} ${x2 - gap / 2} ${y2} ${x2} ${y2}` }));
  }
  const queues = new Set(agent.queues.map(([from]) => from));
  for (const [name, [x, y]] of at) {
    const service = services.get(name);
    const state = !service || queues.has(name) ? "" : service.pending ? "starting" : service.replicas ? "hot" : "";
    const text = queues.has(name) ? "queue" : service ? `${service.replicas} ready${service.pending ? `, ${service.pending} starting` : ""} · floor ${service.floor}` : "";
    root.append(svg("rect", { class: `stage ${state}`, x, y, width: box, height: high, rx: 6 }),
      svg("text", { class: "name", x: x + 8, y: y + 19 }, short(name.split("/")[1] ?? name)), svg("text", { x: x + 8, y: y + 36 }, text));
  }
  return root;
}
