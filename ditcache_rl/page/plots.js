// Draws the plots of a page in its colours, and again when these or its width change.
"use strict";
(() => {
  const config = { displayModeBar: false, responsive: true };
  const colors = () => {
    // What `light-dark()` comes to is told of a property that is used, not of a variable.
    const probe = document.body.appendChild(document.createElement("i"));
    const used = (name) => {
      probe.style.color = `var(--dc-${name})`;
      return getComputedStyle(probe).color;
    };
    const found = Object.fromEntries(["ink", "soft", "line", "paper"].map((n) => [n, used(n)]));
    probe.remove();
    return found;
  };
  const themed = (layout) => {
    const { ink, soft, line, paper } = colors();
    const narrow = window.innerWidth < 600;
    const axis = (given) => ({
      gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, ...given,
    });
    const margin = { l: 56, r: 16, t: 16, b: 60, ...layout.margin };
    const names = narrow && margin.l > 160; // of lines: long, and as much as the plot itself
    if (names) margin.l = 160;
    // A legend below the axis has room of its own.
    if (layout.legend?.orientation === "h") margin.b = narrow ? 250 : 200;
    return {
      ...layout,
      font: { family: "system-ui, sans-serif", size: 13, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin,
      xaxis: axis(layout.xaxis),
      yaxis: axis(names ? { ...layout.yaxis, tickfont: { size: 8 } } : layout.yaxis),
      legend: { font: { size: narrow ? 11 : 12, color: ink }, ...layout.legend },
      hoverlabel: { bgcolor: paper, bordercolor: soft, font: { color: ink } },
    };
  };
  // On narrow screens the name of a line takes two of them, method above setting.
  const wrapped = (trace) =>
    trace.type === "heatmap" && window.innerWidth < 600
      ? { ...trace, y: trace.y.map((name) => name.replace(/, (?=[^,]*$)/, ",<br>")) }
      : trace;
  const places = [...document.querySelectorAll(".dc-plot")];
  const drawn = new Set();
  const draw = (place) => {
    const source = document.querySelector(`script[data-plot="${place.id}"]`);
    const figure = JSON.parse(source.textContent);
    Plotly.react(place, figure.data.map(wrapped), themed(figure.layout), config);
    drawn.add(place);
  };
  // What is hidden has no width; it is drawn when it is seen.
  const drawAgain = () => [...drawn].filter((place) => place.offsetParent).forEach(draw);
  // A plot is drawn when somebody comes near, so that the page is there at once.
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        observer.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "600px" }
  );
  // A list chooses which panel of a set is shown.
  for (const list of document.querySelectorAll("select[data-panels]")) {
    const choose = () => {
      for (const panel of document.querySelectorAll(`[data-of="${list.dataset.panels}"]`)) {
        panel.hidden = panel.dataset.panel !== list.value;
      }
      drawAgain();
    };
    list.addEventListener("change", choose);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAgain, 150);
  });
  addEventListener("beforeprint", () => places.filter((place) => place.offsetParent).forEach(draw));
  requestAnimationFrame(() => places.forEach((place) => observer.observe(place)));
})();
