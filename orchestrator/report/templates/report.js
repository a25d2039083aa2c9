// Draws the charts of the page with uPlot, which precedes this code in the same script.
(() => {
  "use strict";
  const FONT = "12px system-ui, sans-serif";
  const POWERS = Array.from({ length: 19 }, (_, i) => Number(`1e${i - 9}`));
  const HEADROOM = 1.15;
  const ROWS = 28; // height of the two rows of phase labels, in pixels

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const share = (x) => `${Number((100 - 100 / x).toPrecision(6))} %`;
  const digits = (v) => (v < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 });
  const number = (v) => v?.toLocaleString("en", digits(v)) ?? "";

  function axis(label, more) {
    const lines = { stroke: () => colour("--line"), width: 1 };
    const text = { font: FONT, labelFont: FONT, labelSize: 18, stroke: () => colour("--muted") };
    return { label, ...text, grid: lines, ticks: { ...lines, size: 4 }, size: 26, ...more };
  }

  function upAxis(label, more) {
    const size = (u, texts) => Math.max(50, ...(texts ?? []).map((text) => 14 + 7 * text.length));
    return axis(label, { size, ...more });
  }

  // Options that draw an axis's tick marks at these values only.
  function at(values) {
    return { splits: (u, i, min, max) => values.filter((v) => v >= min && v <= max), filter: (u, splits) => splits };
  }

  function overTime(chart) {
    return {
      height: 250,
      axes: [axis(`${chart.x} since the start`, { grid: { show: false }, space: 55 }), upAxis(chart.y)],
      scales: {
        x: { time: false, range: (u, min, max) => [min, max] },
        y: { range: (u, min, max) => [0, HEADROOM * Math.max(max, chart.level?.at ?? 0) || 1] },
      },
      hooks: phasesAndLevel(chart),
      padding: [ROWS, 8, 0, 0],
      cursor: { sync: { key: "time", setSeries: false } },
    };
  }

  function overPercentiles(chart) {
    const across = { ...at([2, ...POWERS.filter((x) => x > 1)]), values: (u, splits) => splits.map(share) };
    return {
      height: 330,
      axes: [axis("share of messages at or below", across), upAxis(chart.y, at(POWERS))],
      scales: {
        x: { time: false, distr: 3, range: (u, min, max) => [min, max] },
        y: { distr: 3, range: chart.decades },
      },
    };
  }

  // Phases and the level line are HTML elements over the canvas; each drawing places them again, as scales may change.
  function phasesAndLevel({ phases, level }) {
    const placed = [];

    function element(u, kind, text = "") {
      const made = document.createElement("div");
      made.className = kind;
      made.textContent = text;
      u.over.append(made);
      return made;
    }

    function phase(u, { from, to, kind, name }) {
      const band = element(u, `phase ${kind}`);
      const label = element(u, `label ${kind}`, name);
      const row = kind === "before";
      return (taken) => {
        const end = u.over.clientWidth;
        const [left, right] = [from, to].map((x) => Math.min(Math.max(u.valToPos(x, "x"), 0), end));
        const start = Math.min(left, end - label.offsetWidth);
        const shown = name && right > left && start >= (taken[row] ?? 0);
        if (shown) taken[row] = start + label.offsetWidth;
        Object.assign(band.style, { left: `${left}px`, width: `${right - left}px` });
        Object.assign(label.style, { left: `${start}px`, visibility: shown ? "visible" : "hidden" });
      };
    }

    function init(u) {
      placed.push(...phases.map((p) => phase(u, p)));
      if (!level) return;
      const line = element(u, "level", level.text);
      placed.push(() => (line.style.bottom = `${u.over.clientHeight - u.valToPos(level.at, "y")}px`));
    }

    function draw() {
      const taken = {}; // row of labels -> x of the end of its last label
      for (const place of placed) place(taken);
    }

    return { init: [init], draw: [draw] };
  }

  function series(line) {
    const stroke = () => colour(line.colour);
    return {
      label: line.name,
      value: (u, y) => number(y),
      stroke,
      width: 2,
      fill: line.filled && (() => colour(`${line.colour}-wash`)),
      dash: line.dashed ? [3, 3] : [],
      paths: line.stepped && uPlot.paths.stepped({ align: 1 }),
      points: { show: line.marked, size: 5, fill: stroke },
    };
  }

  function draw(id, chart) {
    const place = document.getElementById(`chart-${id}`);
    const kind = chart.x ? overTime(chart) : overPercentiles(chart);
    const hue = (u, i) => `var(${chart.lines[i - 1].colour})`;
    const where = (u, x) => (x === null ? "" : chart.x ? `${number(x)} ${chart.x}` : share(x));
    const dash = (u, i) => (chart.lines[i - 1].dashed ? "dotted" : "solid");
    const options = {
      padding: [8, 8, 0, 0],
      ...kind,
      width: place.clientWidth,
      series: [{ value: where }, ...chart.lines.map(series)],
      legend: { markers: { stroke: hue, fill: () => "none", dash } },
      cursor: { y: false, points: { size: 8, fill: hue }, ...kind.cursor },
    };
    const tables = [[chart.x ? [0, chart.end] : []], ...chart.lines.map(({ x, y }) => [x, y])];
    const wholeGaps = tables.map((table) => table.map(() => 2));
    const plot = new uPlot(options, uPlot.join(tables, wholeGaps), place);
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: kind.height })).observe(place);
    return plot;
  }

  addEventListener("error", ({ error }) => {
    if (!error) return; // a notice of ResizeObserver, not a failure
    document.documentElement.dataset.drawn = "no";
    for (const table of document.querySelectorAll("figure details")) table.open = true;
  });

  const charts = JSON.parse(document.getElementById("charts").textContent);
  const plots = Object.entries(charts).map(([id, chart]) => draw(id, chart));
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  dark.addEventListener("change", () => plots.forEach((plot) => plot.redraw()));
  queueMicrotask(() => (document.documentElement.dataset.drawn ??= "yes")); // uPlot draws in microtasks, too
})();
