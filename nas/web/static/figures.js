// Plots in the colours of the style sheets: drawn, and again when the scheme changes.
const Figures = (() => {
  "use strict";
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };
  const shown = new Map();

  // A copy in which every colour "@name" has become the value of the custom property --name.
  const painted = (value, key, style) => {
    if (Array.isArray(value)) return value.map((item) => (typeof item === "object" ? painted(item, key, style) : item));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name, style)]));
    }
    const named = typeof value === "string" && value.startsWith("@") && key.endsWith("color");
    return named ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
  };

  const draw = (id) => {
    const { data, layout } = painted(shown.get(id), "", getComputedStyle(document.documentElement));
    layout.font.family = getComputedStyle(document.body).fontFamily;
    if (touch) {
      // A finger on a plot scrolls the page.
      layout.dragmode = false;
      layout.xaxis.fixedrange = layout.yaxis.fixedrange = true;
    }
    Plotly.react(id, data, layout, config);
  };

  const show = (id, plot) => {
    shown.set(id, plot);
    draw(id);
  };

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...shown.keys()].forEach(draw));
  const ready = document.getElementById("plots");
  if (ready) Object.entries(JSON.parse(ready.textContent)).forEach(([id, plot]) => show(id, plot));
  return { show };
})();
