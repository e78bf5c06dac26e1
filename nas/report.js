// Draws the plots of the page, in the colours of report.css, and again when the scheme changes or the page is printed.
(() => {
  "use strict";
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  // A copy in which every colour "@name" has become the value of the custom property --name.
  const painted = (value, key, style) => {
    if (Array.isArray(value)) return value.map((item) => painted(item, key, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name, style)]));
    }
    const named = typeof value === "string" && value.startsWith("@") && key.endsWith("color");
    return named ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
  };

  const draw = () => {
    const style = getComputedStyle(root);
    const family = getComputedStyle(document.body).fontFamily;
    for (const [id, plot] of Object.entries(plots)) {
      const { data, layout } = painted(plot, "", style);
      layout.font.family = family;
      // On screen Plotly follows its box; on paper nobody resizes it.
      if ("print" in root.dataset) layout.width = document.getElementById(id).clientWidth;
      if (touch) {
        // A finger on a plot scrolls the page.
        layout.dragmode = false;
        layout.xaxis.fixedrange = layout.yaxis.fixedrange = true;
      }
      Plotly.react(id, data, layout, config);
    }
  };

  draw();
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { root.dataset.print = ""; draw(); });
  addEventListener("afterprint", () => { delete root.dataset.print; draw(); });
})();
