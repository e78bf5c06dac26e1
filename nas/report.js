// Plots in the colours of the style sheets: drawn, and again when the scheme changes or the page is printed. Reports carry this
// file, the pages of the service load it.
const Figures = (() => {
  "use strict";
  const root = document.documentElement;
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
    if (Array.isArray(value)) return value.map((item) => (typeof item === "number" ? item : painted(item, key, style)));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name, style)]));
    }
    const named = typeof value === "string" && value.startsWith("@") && key.endsWith("color");
    return named ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
  };

  const draw = (id) => {
    const { data, layout } = painted(shown.get(id), "", getComputedStyle(root));
    layout.font.family = getComputedStyle(document.body).fontFamily;
    // On screen Plotly follows its box; on paper nobody resizes it.
    if ("print" in root.dataset) layout.width = document.getElementById(id).clientWidth;
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

  const drawAll = () => [...shown.keys()].forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { root.dataset.print = ""; drawAll(); });
  addEventListener("afterprint", () => { delete root.dataset.print; drawAll(); });
  const ready = document.getElementById("plots");
  if (ready) Object.entries(JSON.parse(ready.textContent)).forEach(([id, plot]) => show(id, plot));
  return { show };
})();
