"use strict";
// Draws the pictures with the plotly.js that travels, compressed, in this page.
(async () => {
  const text = (id) => document.getElementById(id).textContent;
  const pictures = JSON.parse(text("pictures"));
  const dark = matchMedia("(prefers-color-scheme: dark)");

  async function loadLibrary() {
    const bytes = Uint8Array.from(atob(text("plotly")), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // Replaces the names of CSS variables by what they are in this colour scheme.
  function painted(value, style) {
    if (typeof value === "string") return /^--[a-z0-9-]+$/.test(value) ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((v) => painted(v, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, style)]));
    return value;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const options = { responsive: true, displayModeBar: false, showTips: false };
    return Promise.all(
      Object.entries(pictures).map(([id, figure]) => {
        const { data, layout } = painted(figure, style);
        return Plotly.react(`chart-${id}`, data, layout, options);
      }),
    );
  }

  try {
    await loadLibrary();
    await draw();
    dark.addEventListener("change", draw);
    document.documentElement.dataset.drawn = "yes";
  } catch (error) {
    document.documentElement.dataset.drawn = "no";
    for (const table of document.querySelectorAll("figure details")) table.open = true;
    console.error(error);
  }
})();
