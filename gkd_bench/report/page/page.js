// The page's own behaviour. All scripts of this folder share one scope, see html.py.

const root = document.documentElement;
root.classList.add("js");

// ---------------------------------------------------------------- small helpers

const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const id = (name) => document.getElementById(name);

/** An element with text and children; text is always text, never markup. */
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === "text") element.textContent = value;
    else if (key === "class") element.className = value;
    else if (key === "style") Object.assign(element.style, value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const number = (value, decimals, signed) => (signed && value >= 0 ? "+" : "") + value.toFixed(decimals);
const p_text = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

// ---------------------------------------------------------------- light and dark

/** Pages opened from a folder may have no storage; the choice then lasts as long as the page. */
const memory = {
  get() { try { return window.localStorage.getItem("gkd-theme"); } catch { return null; } },
  set(value) { try { window.localStorage.setItem("gkd-theme", value); } catch { /* nothing to remember it in */ } },
};
const remembered = memory.get();
if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;

function startTheme() {
  const button = id("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = dark() ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    memory.set(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();
}

// ---------------------------------------------------------------- contents, folds, copies

function startContents() {
  const details = document.querySelector(".contents details");
  const wide = window.matchMedia("(min-width: 68rem)");
  const fold = () => { details.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].filter((name) => seen.has(name)).pop();
    for (const [name, link] of links) {
      if (name === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -70% 0px" });
  for (const name of links.keys()) if (id(name)) observer.observe(id(name));
}

/** Long parts are open in the file, for readers without scripts and for printing. */
function startFolds() {
  const long = all("details.long");
  for (const part of long) part.open = false;
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("main details:not([open])");
    for (const part of closed) part.open = true;
  });
  window.addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
  const reveal = () => {
    const target = location.hash && id(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details");
    if (fold) fold.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();
}

function startCopies() {
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const text = id(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        window.getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

// ---------------------------------------------------------------- sorting

function startSorting() {
  for (const table of all("table.data")) {
    const headings = all("thead th", table);
    const original = [...table.tBodies[0].rows];
    headings.forEach((heading, at) => {
      const button = make("button", { type: "button" });
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, headings, original, at));
    });
  }
}

function sort(table, headings, original, at) {
  const heading = headings[at];
  const first = heading.classList.contains("number") && heading.dataset.better !== "down" ? "descending" : "ascending";
  const second = first === "descending" ? "ascending" : "descending";
  const order = { [first]: second, [second]: "" }[heading.getAttribute("aria-sort")] ?? first;
  for (const one of headings) one.removeAttribute("aria-sort");
  if (order) heading.setAttribute("aria-sort", order);
  const rows = order ? [...original].sort(comparing(at, order, heading.classList.contains("number"))) : original;
  table.tBodies[0].append(...rows);
}

/** Rows without a number stay last, whichever way the others are sorted. */
function comparing(at, order, numeric) {
  const way = order === "ascending" ? 1 : -1;
  if (!numeric) return (a, b) => way * a.cells[at].textContent.localeCompare(b.cells[at].textContent);
  const value = (row) => ("number" in row.cells[at].dataset ? Number(row.cells[at].dataset.number) : null);
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return way * (x - y);
  };
}

// ---------------------------------------------------------------- start

document.addEventListener("DOMContentLoaded", () => {
  for (const part of all(".script-only")) part.hidden = false;
  startTheme();
  startContents();
  startFolds();
  startCopies();
  startSorting();
  startHeat();
});
