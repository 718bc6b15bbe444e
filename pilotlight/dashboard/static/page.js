"use strict";
// The page: asks for one document, shows what changed, and asks again. Names are strangers' input: all of them are
// set as text (`el`), none as markup.

const EVERY_MS = 1500, DETAIL_MS = 3000, ROWS = 100;
const $ = (id) => document.getElementById(id);
const state = { token: sessionStorage.getItem("pilotlight-token"), overview: null, right: "read", chosen: null, rows: ROWS, busy: false, detailAt: 0, costAt: 0, costs: [], logs: false };

function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return node;
}
const number = (value, digits = 0, unit = "") => (value === null || value === undefined ? "-" : value.toFixed(digits) + unit);
const path = (id) => id.split("/").map(encodeURIComponent).join("/");
const local = (text) => (text ? new Date(text).toLocaleString(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit", day: "numeric", month: "short" }) : "");

async function ask(url, options = {}) {
  const response = await fetch(`api/${url}`, { ...options, headers: { Authorization: `Bearer ${state.token}`, ...(options.body ? { "Content-Type": "application/json" } : {}) }, signal: AbortSignal.timeout(15000) });
  if (response.status === 401) throw Object.assign(new Error("the token is not valid"), { denied: true });
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.detail ?? response.statusText), { status: response.status });
  return [body, response];
}

// Nothing of what stands behind the # is sent to a server; and it does not stay in the address bar.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  state.token = given;
  sessionStorage.setItem("pilotlight-token", given);
  history.replaceState(null, "", location.pathname);
}

function say(text, bad = false) {
  const node = $("connection");
  if (node.textContent !== text) node.textContent = text;
  node.className = bad ? "bad" : "";
}

function login(text) {
  $("main").hidden = true;
  $("login").hidden = false;
  say(text, true);
}

async function refresh() {
  if (state.busy || document.hidden || !state.token) return;
  state.busy = true;
  try {
    const [overview, response] = await ask("overview");
    state.overview = overview;
    state.right = response.headers.get("X-Pilotlight-Right");
    $("login").hidden = true;
    $("main").hidden = false;
    show();
    if (state.chosen && Date.now() - state.detailAt > DETAIL_MS) await showDetail();
    if ($("cost-by").value !== "pool" && Date.now() - state.costAt > 3 * DETAIL_MS) await showCosts();
    say(`live · ${new Date(overview.now).toLocaleTimeString()}${state.right === "write" ? "" : " · read-only"}`);
  } catch (problem) {
    if (problem.denied) { sessionStorage.removeItem("pilotlight-token"); state.token = null; login("a token is needed"); }
    else say(`not up to date: ${problem.message}`, true);
  } finally { state.busy = false; }
}

function show() {
  const { overview } = state;
  $("problems").replaceChildren(...overview.problems.map((text) => el("li", {}, text)));
  showTiles(overview);
  showServices(overview);
  showAgents(overview);
  showQueues(overview);
  if ($("cost-by").value === "pool") showPoolCosts(overview);
}

function showTiles(overview) {
  const sum = (key) => overview.services.reduce((total, service) => total + (service[key] ?? 0), 0);
  const tiles = [["Services", overview.services.length, `${overview.services.filter((s) => s.ready !== "yes").length} not ready`],
    ["Replicas", sum("replicas"), `${sum("pending")} starting`], ["Held warm", sum("floor"), `in ${overview.pools.filter((p) => p.enabled).length} pools`]];
  if (overview.slots) tiles.push(["GPU slots", overview.slots.held ?? 0, `of ${(overview.slots.held ?? 0) + (overview.slots.free ?? 0)} held`]);
  tiles.push(["Requests", number(sum("requestsPerSecond"), 1), "per second"], ["Tokens", number(sum("tokensPerSecond"), 0), "per second"]);
  for (const cost of overview.cost) tiles.push([`Cost to date, ${cost.currency}`, cost.toDate, cost.budget ? `of ${cost.budget} budget` : "no budget"]);
  $("tiles").replaceChildren(...tiles.map(([name, value, more]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value), " ", el("small", {}, more)))));
}

/** Keep the rows that have not changed: focus, selection and scrolling stay. */
function fill(body, items, row) {
  const known = new Map([...body.children].map((node) => [node.dataset.id, node]));
  let before = body.firstChild; // what stands where the next row belongs
  for (const item of items) {
    const text = JSON.stringify(item);
    let node = known.get(item.id);
    known.delete(item.id);
    if (!node || node.dataset.text !== text) {
      const made = row(item), focused = node?.contains(document.activeElement);
      made.dataset.id = item.id;
      made.dataset.text = text;
      if (node) { if (before === node) before = made; node.replaceWith(made); } 
      node = made;
      if (focused) node.querySelector("button")?.focus();
    }
    if (node !== before) body.insertBefore(node, before); else before = node.nextSibling;
  }
  for (const node of known.values()) node.remove();
}

function showServices(overview) {
  const wanted = $("filter").value.trim().toLowerCase();
  const found = overview.services.filter((s) => !wanted || `${s.id} ${s.agent ?? ""} ${s.kind ?? ""} ${s.ready} ${s.warmth.join(" ")}`.toLowerCase().includes(wanted));
  const names = ["", "ready", "replicas", "floor", "demand", "warmth", "req/s", "TTFT", "tokens/s", ""];
  const items = found.slice(0, state.rows).map((s) => ({ ...s, chosen: s.id === state.chosen }));
  fill($("service-table").tBodies[0], items, (s) => {
    const cells = [[el("button", { class: "link", type: "button", onclick: () => choose(s.id), "aria-pressed": String(s.chosen) }, s.id)],
      [s.ready, s.ready === "yes" ? "good" : s.ready === "no" ? "bad" : "warn"], [`${s.replicas}${s.pending ? ` + ${s.pending}` : ""}`, "n"], [s.floor, "n"],
      [number(s.demand, 1), "n"], [s.warmth.join(", ") || "-"], [number(s.requestsPerSecond, 1), "n"], [number(s.ttft === null ? null : s.ttft * 1000, 0, " ms"), "n"],
      [number(s.tokensPerSecond, 0), "n"], [el("span", {}, s.why, ...s.warnings.map((text) => el("div", { class: "warn" }, `⚠ ${text}`))), "why"]];
    return el("tr", { class: s.chosen ? "chosen" : "" }, ...cells.map(([content, style], i) => el("td", { class: style ?? "", "data-name": names[i] }, content)));
  });
  $("more").hidden = found.length <= state.rows;
  $("more").textContent = `Show more (${state.rows} of ${found.length})`;
}

let agentsShown = "";
function showAgents(overview) {
  const services = new Map(overview.services.map((s) => [s.id, s]));
  const shown = overview.agents.slice(0, 20);
  const text = JSON.stringify([overview.agents.length, shown, shown.map((a) => a.stages.map(({ service }) => { const s = services.get(service); return s && [s.replicas, s.pending, s.floor]; }))]);
  if (text === agentsShown) return;
  agentsShown = text;
  const nodes = shown.map((agent) => el("div", {}, el("h3", {}, agent.id), el("div", { class: "scroll" }, agentGraph(agent, services))));
  if (overview.agents.length > shown.length) nodes.push(el("p", { class: "quiet" }, `and ${overview.agents.length - shown.length} more`));
  $("agents").replaceChildren(...(nodes.length ? nodes : [el("p", { class: "quiet" }, "No agents. Deploy one: pilotlight deploy -f agent.yaml")]));
}

function showQueues(overview) {
  $("queue-table").hidden = !overview.queues.length;
  $("no-queues").hidden = overview.queues.length > 0;
  const plain = (value) => (value === null ? "-" : String(value));
  fill($("queue-table").tBodies[0], overview.queues.slice(0, ROWS), (q) => el("tr", {}, el("td", {}, q.id), el("td", { class: q.ready === "True" ? "good" : "warn", title: q.message ?? "" }, q.ready === "True" ? "yes" : "no"), el("td", {}, plain(q.source)),
    ...[q.backlog, q.oldestMessageAge, q.inFlight, q.delivered, q.retried, q.deadLettered].map((value) => el("td", { class: "n" }, plain(value)))));
}

function costRow(cells) { return el("tr", {}, ...cells.map((cell, i) => el("td", { class: i ? "n" : "" }, cell))); }
function costHead(names) { $("cost-table").tHead.replaceChildren(el("tr", {}, ...names.map((name, i) => el("th", { class: i ? "n" : "" }, name)))); }

function showPoolCosts(overview) {
  costHead(["Pool", "to date", "projected", "budget", "idle GPU h", "busy GPU h"]);
  const hours = (seconds) => number(seconds === null ? null : seconds / 3600, 2);
  const items = overview.pools.filter((pool) => pool.cost).sort((a, b) => b.cost.toDate - a.cost.toDate).slice(0, ROWS).map(({ id, cost }) => ({ id, cost }));
  fill($("cost-table").tBodies[0], items, ({ id, cost }) => costRow([id, `${cost.toDate} ${cost.currency}`, cost.projected ?? "-", cost.budget ?? "none", hours(cost.idleGpuSeconds), hours(cost.busyGpuSeconds)]));
  $("cost-note").textContent = items.length ? "Per pool's period, as its status says." : "No pool has cost anything yet.";
}

async function showCosts() {
  const by = $("cost-by").value;
  state.costAt = Date.now();
  const [lines] = await ask(`cost?by=${by}`);
  if ($("cost-by").value !== by) return;
  costHead([by, "cost", "requests", "tokens"]);
  fill($("cost-table").tBodies[0], lines.map((line) => ({ ...line, id: `${by} ${line.name} ${line.currency}` })), (line) => costRow([line.name, line.amount === null ? "-" : `${line.amount} ${line.currency}`, number(line.requests), number(line.tokens)]));
  $("cost-note").textContent = lines.length ? "Divided by what the replicas that run now have counted; pilotlight cost --prometheus has the whole period." : "Nothing has cost or used anything that is counted.";
}

async function choose(id) {
  state.chosen = id;
  state.logs = false;
  showServices(state.overview);
  await showDetail().catch((problem) => say(problem.message, true));
  $("detail-h")?.focus({ preventScroll: true });
  if (innerWidth <= 900) $("detail").scrollIntoView();
}

async function showDetail() {
  const id = state.chosen;
  state.detailAt = Date.now();
  let found;
  try { [found] = await ask(`services/${path(id)}`); }
  catch (problem) {
    if (problem.status !== 404) throw problem;
    state.chosen = null;
    $("detail").replaceChildren(el("h2", { id: "detail-h", tabIndex: -1 }, `${id} is gone`));
    return;
  }
  if (state.chosen !== id) return;
  const panel = $("detail");
  if (panel.dataset.id !== id) {
    panel.dataset.id = id;
    panel.replaceChildren(el("h2", { id: "detail-h", tabIndex: -1 }, id), ...["act", "chart", "why", "week", "starts", "logs"].map((part) => el("div", { class: `part-${part}` })));
    panel.querySelector(".part-act").append(actions(id));
    panel.querySelector(".part-logs").append(el("h3", {}, "Logs"), el("button", { type: "button", onclick: () => showLogs(id) }, "Show the last lines"), el("div", { class: "lines" }));
  }
  showActions(id);
  const put = (part, ...nodes) => panel.querySelector(`.part-${part}`).replaceChildren(...nodes.filter(Boolean));
  put("chart", el("h3", {}, "Floor against demand, last hour"), historyChart(found.points, Date.now() / 1000, `Floor, ready replicas and demand of ${id} in the last hour`),
    el("ul", { class: "legend" }, ...[["floor", "floor"], ["ready", "ready replicas"], ["demand", "demand (replicas that the requests fill)"]].map(([name, text]) => el("li", {}, el("i", { class: name }), text))));
  put("why", el("h3", {}, "Why, and what comes next"), ...(found.explanation.length ? why(found) : [el("p", { class: "quiet" }, "No WarmPool: it scales to zero, and the first request waits for a start.")]));
  put("week", found.calendar && el("h3", {}, `Seven days ahead (${found.calendar.timeZone})`), found.calendar && calendarChart(found.calendar, `The schedule's floor of ${id} in the next seven days`));
  const starts = found.starts.slice(0, 5).map((start) => [`${new Date(start.readyAt).toLocaleTimeString()} · ${start.pod} · ${start.seconds.toFixed(2)} s`, start.phases, start.seconds]);
  if (found.medians.length) starts.unshift(["median of the measured starts", found.medians, null]);
  put("starts", el("h3", {}, "Cold starts by phase"), starts.length ? waterfall(starts, `Phases of the latest starts of ${id}`) : el("p", { class: "quiet" }, "None seen yet."));
}

/** Every rule with its say; the whole text of `pilotlight pool explain` behind a heading that stays as it was. */
function why(found) {
  const rows = found.rules.map((rule) => el("tr", {}, el("td", {}, rule.rule), el("td", {}, rule.held), el("td", {}, rule.detail)));
  const open = $("detail").querySelector("details")?.open ?? !rows.length;
  return [rows.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["rule", "asks for", "because"].map((name) => el("th", {}, name)))), el("tbody", {}, ...rows))) : null,
    el("p", { class: "quiet" }, "The highest counts, then limits, then the budget."), el("details", { open }, el("summary", {}, "pilotlight pool explain"), el("pre", {}, found.explanation.join("\n")))];
}

function actions(id) {
  const replicas = el("input", { type: "number", min: 1, max: 10000, value: 1, "aria-label": "Replicas to hold" });
  const span = el("input", { value: "1h", "aria-label": "For how long: 30m, 2h, 1d" });
  const button = (text, act) => el("button", { type: "button", "data-act": act, onclick: () => send(id, act, act === "hold" ? { replicas: Number(replicas.value), for: span.value } : {}) }, text);
  return el("div", {}, el("p", { class: "pool-state" }), el("div", { class: "actions" }, replicas, span, button("Hold", "hold"), button("Release", "release"), button("Enable", "enable"), button("Disable", "disable")), el("p", { class: "answer", role: "status" }));
}

const poolOf = (id) => state.overview.pools.find((pool) => pool.service === id);

function showActions(id) {
  const panel = $("detail"), pool = poolOf(id);
  panel.querySelector(".actions").hidden = !pool || state.right !== "write";
  if (!pool) { panel.querySelector(".pool-state").textContent = ""; return; }
  const parts = [`Floor ${pool.held ?? "?"}${pool.reason ? ` (${pool.reason})` : ""}`];
  if (!pool.enabled) parts.push("disabled");
  if (pool.hold) parts.push(`held at ${pool.hold.replicas} until ${local(pool.hold.until)}`);
  if (pool.next) parts.push(`next: ${pool.next.held} at ${local(pool.next.at)}`);
  if (pool.coldStart.p95) parts.push(`cold start p50 ${pool.coldStart.p50}, p95 ${pool.coldStart.p95}`);
  panel.querySelector(".pool-state").textContent = parts.join(" · ");
  const can = { hold: true, release: Boolean(pool.hold), enable: !pool.enabled, disable: pool.enabled };
  for (const node of panel.querySelectorAll("[data-act]")) node.disabled = !can[node.dataset.act];
}

async function send(id, act, body) {
  const answer = $("detail").querySelector(".answer"), pool = poolOf(id);
  answer.textContent = "…";
  try {
    const [done] = await ask(`pools/${path(pool.id)}/${act}`, { method: "POST", body: JSON.stringify(body) });
    answer.textContent = act === "hold" ? `held until ${local(done.until)}` : `${act} done`;
    answer.className = "answer good";
    state.detailAt = 0;
    await refresh();
  } catch (problem) { answer.textContent = problem.message; answer.className = "answer bad"; }
}

async function showLogs(id) {
  const place = $("detail").querySelector(".lines");
  try {
    const [found] = await ask(`services/${path(id)}/logs?lines=100`);
    const nodes = found.flatMap(({ pod, lines, problem }) => [el("h3", {}, pod), problem ? el("p", { class: "warn" }, problem) : el("div", { class: "log", tabIndex: 0, role: "log", "aria-label": `Log of ${pod}` }, el("pre", {}, lines.join("\n") || "(empty)"))]);
    place.replaceChildren(...(nodes.length ? nodes : [el("p", { class: "quiet" }, "No replica runs now; pilotlight logs has those that ended.")]));
    for (const log of place.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
  } catch (problem) { place.replaceChildren(el("p", { class: "bad" }, problem.message)); }
}

$("login").addEventListener("submit", (event) => { event.preventDefault(); state.token = $("token").value.trim(); sessionStorage.setItem("pilotlight-token", state.token); refresh(); });
$("filter").addEventListener("input", () => { state.rows = ROWS; if (state.overview) showServices(state.overview); });
$("more").addEventListener("click", () => { state.rows += ROWS; showServices(state.overview); });
$("cost-by").addEventListener("change", () => { if ($("cost-by").value === "pool") showPoolCosts(state.overview); else showCosts().catch((problem) => say(problem.message, true)); });
document.addEventListener("visibilitychange", refresh);
addEventListener("hashchange", () => { takeToken(); refresh(); });
takeToken();
if (!state.token) login("a token is needed");
refresh();
setInterval(refresh, EVERY_MS);
