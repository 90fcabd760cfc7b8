"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const PRINT_WIDTH = 660;
  const chosenView = {};
  let printing = false;

  const say = (text) => { document.getElementById("status").textContent = text; };

  // Figures name their colours as CSS variables; a theme fills them in.
  function painted(value) {
    if (Array.isArray(value)) return value.map(painted);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, painted(child)]));
    }
    if (typeof value !== "string" || !value.startsWith("var(--")) return value;
    return getComputedStyle(root).getPropertyValue(value.slice(4, -1)).trim();
  }

  function assign(layout, path, value) {
    const keys = path.split(".");
    const last = keys.pop();
    let place = layout;
    for (const key of keys) place = place[key] ??= {};
    place[last] = value;
  }

  function draw(plot) {
    const key = plot.dataset.figure;
    const { data, layout, views } = painted(figures[key]);
    const view = views[chosenView[key] ?? 0];
    if (view) {
      data.forEach((trace, index) => { trace.visible = view.visible[index]; });
      for (const [path, value] of Object.entries(view.layout)) assign(layout, path, value);
    }
    if (printing) layout.width = PRINT_WIDTH;
    const small = !printing && plot.clientWidth < 520;
    if (small) layout.font.size = 11;
    return Plotly.react(plot, data, layout, { displayModeBar: false, responsive: !printing });
  }

  const shown = (plot) => plot.offsetParent !== null;
  const drawAll = () => document.querySelectorAll(".plot").forEach((plot) => { if (shown(plot)) draw(plot); });

  // Light and dark
  function setTheme(theme) {
    root.dataset.theme = theme;
    document.getElementById("theme").textContent = theme === "dark" ? "Light theme" : "Dark theme";
  }
  document.getElementById("theme").addEventListener("click", () => {
    setTheme(root.dataset.theme === "dark" ? "light" : "dark");
    drawAll();
  });
  dark.addEventListener("change", () => { setTheme(dark.matches ? "dark" : "light"); drawAll(); });

  // Which run is shown
  function pick(index) {
    document.querySelectorAll("[data-run]").forEach((part) => part.classList.toggle("shown", part.dataset.run === index));
    document.querySelectorAll("[data-pick]").forEach((button) => {
      button.setAttribute("aria-pressed", String(button.dataset.pick === index));
    });
    drawAll();
  }
  document.querySelectorAll("[data-pick]").forEach((button) => {
    button.addEventListener("click", () => { pick(button.dataset.pick); say(`${button.textContent} is shown`); });
  });

  // Views of a figure
  document.querySelectorAll("[data-view]").forEach((button) => {
    button.addEventListener("click", () => {
      const figure = button.closest("figure");
      chosenView[figure.id] = Number(button.dataset.view);
      figure.querySelectorAll("[data-view]").forEach((other) => {
        other.setAttribute("aria-pressed", String(other === button));
      });
      draw(figure.querySelector(".plot"));
    });
  });

  // Sorting: by the last number before a bracket (after an arrow: what came out), else by the text
  function value(row, column) {
    const text = row.cells[column].textContent.trim().split("→").pop().replace(/\(.*\)/, "").replace(/−/g, "-");
    const match = text.replace(/,/g, "").match(/^\s*([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kMG])?(?![\w.])/);
    return match ? Number(match[1]) * ({ k: 1e3, M: 1e6, G: 1e9 }[match[2]] ?? 1) : text.toLowerCase();
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  }
  document.querySelectorAll("table.sortable thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      const rows = [...body.rows].sort((a, b) => compare(value(a, head.cellIndex), value(b, head.cellIndex)));
      if (!up) rows.reverse();
      head.parentElement.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
      say(`sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`);
    });
  });

  // Copying
  function copyByHand(text) {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyByHand(text);
    }
  }
  document.querySelectorAll("[data-copy]").forEach((button) => {
    const label = button.innerHTML;
    button.addEventListener("click", async () => {
      const done = await copied(document.getElementById(button.dataset.copy).textContent);
      const what = button.querySelector(".hidden")?.textContent ?? "";
      say(done ? `copied${what}` : `could not copy${what}; select the text`);
      button.textContent = done ? "Copied" : "Select the text";
      window.setTimeout(() => { button.innerHTML = label; button.focus(); }, 1500);
    });
  });

  // Printing: light, one width
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    printing = true;
    setTheme("light");
    drawAll();
  });
  window.addEventListener("afterprint", () => { printing = false; setTheme(before ?? "light"); drawAll(); });

  setTheme(dark.matches ? "dark" : "light");
  root.dataset.ready = "";
  pick("0");
  root.dataset.drawn = "";
})();
