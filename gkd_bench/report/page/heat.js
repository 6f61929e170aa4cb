// The heat-map: what every cell shows, what the chosen one says, and how to walk between them.

const MODES = {
  value: { of: (cell) => cell, signed: false },
  gain: { of: (cell) => cell.d, signed: true },
  drop: { of: (cell) => cell.r, signed: true },
};

function startHeat() {
  const source = id("heat-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const metrics = new Map(data.metrics.map((metric) => [metric.key, metric]));
  const titles = new Map(data.methods.map((method) => [method.key, method.title]));
  const body = id("heat-table").tBodies[0];
  const cells = [...body.rows].map((row) => all("td", row));
  const state = { method: data.method, metric: data.metrics[0].key, mode: "value", row: 0, column: 0 };

  const cell = (row, column, method = state.method) => data.cells[state.metric][method][row][column];
  const metric = () => metrics.get(state.metric);
  const shown = (one) => (one ? MODES[state.mode].of(one) : undefined);
  const left_out = (row, column) => data.missing[data.sources[row]] ?? data.missing[data.targets[column]];
  const goodness = () => (metric().up ? 1 : -1);

  /** Smallest and largest number in this mode over all methods, so that switching methods compares them.
   *  The teacher's lead would drown the differences between students; its own colours end at the ends of theirs. */
  function range() {
    const counts = Object.entries(data.cells[state.metric]).filter(([key]) => state.mode === "value" || key !== "teacher");
    const values = counts.flatMap(([, rows]) => rows.flat()).map(shown).filter(Boolean).map((one) => one.v);
    if (state.mode === "value") return [Math.min(...values), Math.max(...values)];
    const most = Math.max(1e-9, ...values.map(Math.abs));
    return [-most, most];
  }

  function colour(value, [low, high]) {
    const stops = state.mode === "value" ? data.colours.sequential : data.colours.diverging;
    const share = high > low ? (value - low) / (high - low) : 0.5;
    return shade(stops, goodness() > 0 ? share : 1 - share);
  }

  function draw() {
    const limits = range();
    cells.forEach((row, r) => row.forEach((td, c) => drawCell(td, r, c, limits)));
    id("heat-caption").textContent = caption();
    id("heat-mode-note").textContent = modeNote();
    drawScale(limits);
    drawReadout();
  }

  function drawCell(td, row, column, limits) {
    const one = shown(cell(row, column));
    const { decimals } = metric();
    td.replaceChildren();
    td.style.backgroundColor = one ? colour(one.v, limits) : "";
    td.style.color = one ? inkOn(colour(one.v, limits)) : "";
    td.setAttribute("aria-label", spoken(row, column));
    td.append(make("span", { class: "value", text: one ? number(one.v, decimals, MODES[state.mode].signed) + mark(one) : empty(row, column) }));
    if (one && one.h !== undefined) td.append(make("span", { class: "half", text: `± ${one.h.toFixed(decimals)}` }));
  }

  function mark(one) {
    if (state.mode !== "gain" || !one.f) return "";
    return one.f.includes("better") ? " *" : one.f.includes("worse") ? " ▾" : one.f.includes("tie") ? " ≈" : "";
  }

  function empty(row, column) {
    if (left_out(row, column) !== undefined) return "n/a";
    if (state.mode === "drop" && data.sources[row] === data.targets[column]) return "home";
    return "-";
  }

  function caption() {
    const what = { value: "", gain: ", difference to student alone", drop: ", change from own domain" }[state.mode];
    return `${titles.get(state.method)}, ${metric().title}${what}`;
  }

  function modeNote() {
    if (state.mode === "value") return "One colour scale for all methods; brighter is better.";
    const words = "One colour scale for all students; purple is better, orange worse. ";
    if (state.mode === "drop") return `${words}Score on the target minus the same networks' score at home.`;
    return `${words}* better, ▾ worse than the student alone, p < 0.05 after Holm's correction; ≈ a tie.`;
  }

  function drawScale(limits) {
    const ends = goodness() > 0 ? limits : [limits[1], limits[0]];
    const stops = state.mode === "value" ? data.colours.sequential : data.colours.diverging;
    id("scale-low").textContent = number(ends[0], metric().decimals, state.mode !== "value");
    id("scale-high").textContent = number(ends[1], metric().decimals, state.mode !== "value");
    id("scale-bar").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  }

  // ------------------------------------------------------------ what one cell says

  function facts(one) {
    const { decimals } = metric();
    const lines = [];
    const to = (low, high, signed) => `${number(low, decimals, signed)} to ${number(high, decimals, signed)}`;
    const people = data.people ?? "subjects";
    const seeds = `${one.n ?? 0} seed${one.n === 1 ? "" : "s"}`;
    lines.push([`95 % t interval, n = ${seeds}`, one.h === undefined ? "needs two seeds" : `± ${number(one.h, decimals)}`]);
    if (one.l !== undefined && one.u !== undefined) {
      lines.push([`95 % bootstrap, seeds and ${one.s} test ${people}`, to(one.l, one.u)]);
    }
    if (one.d) {
      lines.push(["difference to student alone", number(one.d.v, decimals, true)]);
      if (one.d.l !== undefined && one.d.u !== undefined) lines.push(["its 95 % bootstrap", to(one.d.l, one.d.u, true)]);
      if (one.d.p !== undefined) lines.push([`its p, Holm-adjusted, n = ${one.d.s} ${people}`, p_text(one.d.p)]);
    }
    if (one.r) lines.push(["change from own domain", number(one.r.v, decimals, true)]);
    return lines;
  }

  function spoken(row, column) {
    const place = `trained on ${data.sources[row]}, tested on ${data.targets[column]}, ${titles.get(state.method)}`;
    const one = cell(row, column);
    if (!one) return `${place}: ${left_out(row, column) === undefined ? "not scored" : `left out, ${left_out(row, column)}`}`;
    const value = `${metric().title} ${number(one.v, metric().decimals)}`;
    return `${place}: ${value}; ${facts(one).map((pair) => pair.join(" ")).join("; ")}`;
  }

  function drawReadout() {
    const { row, column } = state;
    const one = cell(row, column);
    const title = make("h3", { text: `${data.sources[row]} → ${data.targets[column]}` });
    const what = make("p", { class: "what", text: `${metric().title} of ${titles.get(state.method)}` });
    if (!one) {
      const reason = left_out(row, column);
      id("readout").replaceChildren(title, what, make("p", { text: reason === undefined ? "Not scored." : `Left out: ${reason}` }));
      return;
    }
    const list = make("dl", { class: "pairs" });
    for (const [name, text] of facts(one)) list.append(make("dt", { text: name }), make("dd", { text }));
    const big = make("div", { class: "big", text: number(one.v, metric().decimals) });
    id("readout").replaceChildren(title, what, big, list, strips(row, column));
  }

  /** Every method on this pair, side by side on one scale: a dot, and a bar for its bootstrap interval. */
  function strips(row, column) {
    const found = data.methods.map((method) => [method, cell(row, column, method.key)]).filter((pair) => pair[1]);
    const ends = found.flatMap(([, one]) => [one.v, one.l ?? one.v, one.u ?? one.v]);
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    const place = (value) => `${high > low ? (100 * (value - low)) / (high - low) : 50}%`;
    const list = make("ul", { class: "strips", "aria-label": "all methods on this pair" });
    for (const [method, one] of found) {
      const track = make("span", { class: "track", "aria-hidden": "true" });
      if (one.l !== undefined && one.u !== undefined) {
        track.append(make("i", { style: { left: place(one.l), right: `calc(100% - ${place(one.u)})` } }));
      }
      track.append(make("b", { style: { left: place(one.v), backgroundColor: data.colours.methods[method.key] } }));
      const item = make("li", { class: method.key === state.method ? "chosen" : "" });
      item.append(make("span", { class: "name", text: method.title, title: method.title }), track);
      item.append(make("span", { text: number(one.v, metric().decimals) }));
      list.append(item);
    }
    return list;
  }

  // ------------------------------------------------------------ pointing and keys

  function choose(row, column, focus) {
    const before = cells[state.row][state.column];
    before.tabIndex = -1;
    before.classList.remove("chosen");
    Object.assign(state, { row, column });
    const now = cells[row][column];
    now.tabIndex = 0;
    now.classList.add("chosen");
    if (focus) now.focus();
    drawReadout();
  }

  function onKey(event) {
    const last = [cells.length - 1, cells[0].length - 1];
    const { row, column } = state;
    const moves = {
      ArrowUp: [Math.max(0, row - 1), column],
      ArrowDown: [Math.min(last[0], row + 1), column],
      ArrowLeft: [row, Math.max(0, column - 1)],
      ArrowRight: [row, Math.min(last[1], column + 1)],
      Home: event.ctrlKey ? [0, 0] : [row, 0],
      End: event.ctrlKey ? last : [row, last[1]],
    };
    if (event.key in moves) choose(...moves[event.key], true);
    else if (event.key === "Enter" || event.key === " ") openViewer();
    else return;
    event.preventDefault();
  }

  const table = id("heat-table");
  table.setAttribute("role", "grid");
  cells.forEach((row, r) => row.forEach((td, c) => {
    td.setAttribute("role", "gridcell");
    td.tabIndex = -1;
    td.addEventListener("mouseenter", () => choose(r, c, false));
    td.addEventListener("focus", () => { if (state.row !== r || state.column !== c) choose(r, c, false); });
    td.addEventListener("click", () => { choose(r, c, true); openViewer(); });
  }));
  body.addEventListener("keydown", onKey);
  id("heat-method").value = state.method;
  id("heat-metric").value = state.metric;
  for (const [name, key] of [["heat-method", "method"], ["heat-metric", "metric"]]) {
    id(name).addEventListener("change", (event) => { state[key] = event.target.value; draw(); });
  }
  for (const radio of all('input[name="heat-mode"]')) {
    radio.checked = radio.value === state.mode;
    radio.addEventListener("change", () => { state.mode = radio.value; draw(); });
  }
  const openViewer = startViewer(data, state, () => strips(state.row, state.column), metric);
  choose(...opening(), false);
  draw();

  /** The first foreign cell that was scored. */
  function opening() {
    const places = cells.flatMap((row, r) => row.map((_, c) => [r, c])).filter(([r, c]) => cell(r, c));
    return places.find(([r, c]) => data.sources[r] !== data.targets[c]) ?? places[0] ?? [0, 0];
  }
}

/** The colour at a share of the way along even stops. */
function shade(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const at = Math.min(Math.floor(place), stops.length - 2);
  const [from, to] = [channels(stops[at]), channels(stops[at + 1])];
  return `#${from.map((a, i) => Math.round(a + (to[i] - a) * (place - at)).toString(16).padStart(2, "0")).join("")}`;
}

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** Black or white, whichever stands out more (Web Content Accessibility Guidelines 2.2). */
function inkOn(colour) {
  const linear = channels(colour).map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) ? "#000000" : "#ffffff";
}
