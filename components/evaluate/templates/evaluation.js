// The confusion matrix: a cell shows its pictures. Each picture names its cell in data-in.
const panel = document.getElementById("cell");
if (panel) {
  const pictures = [...document.querySelectorAll("[data-in]")];
  for (const cell of document.querySelectorAll("[data-cell]")) {
    const button = make("button", { type: "button" }, ...cell.childNodes);
    button.setAttribute("aria-label", cell.title || cell.dataset.title);
    button.setAttribute("aria-controls", "cell");
    cell.append(button);
    button.addEventListener("click", () => {
      const found = pictures.filter((entry) => entry.dataset.in === cell.dataset.cell);
      const copies = found.map((entry) => {
        const copy = entry.cloneNode(true);
        copy.hidden = false;
        return copy;
      });
      const heading = make("h3", { textContent: cell.title || cell.dataset.title });
      const total = Number(button.textContent.replaceAll(",", ""));
      const note = make("p", {
        className: "quiet",
        textContent: copies.length < total
          ? `${copies.length} of ${total} images are in this page; predictions.csv lists all.`
          : "",
      });
      panel.replaceChildren(heading, make("ul", { className: "thumbnails" }, ...copies), note);
      panel.scrollIntoView({ block: "nearest" });
    });
  }
}

// The threshold: the slider shows the precision and recall that the page has for it.
const slider = document.getElementById("threshold");
if (slider) {
  const classes = JSON.parse(document.getElementById("threshold-data").textContent);
  const choice = document.getElementById("threshold-class");
  const chart = document.querySelector("#threshold-chart svg");
  const steps = Number(slider.max);
  const lines = chart.querySelectorAll("polyline");
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const { left, right, top: upper, bottom } = chart.dataset;
  const x = (step) => Number(left) + (step / steps) * (right - left);
  const y = (fraction) => Number(bottom) - fraction * (bottom - upper);
  const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}%` : "\u2013");
  mark.setAttribute("class", "marker");
  mark.setAttribute("y1", upper);
  mark.setAttribute("y2", bottom);
  chart.append(mark);
  for (const dot of chart.querySelectorAll("circle")) dot.remove();

  const draw = () => {
    const { support, predicted, hits } = classes[choice.selectedIndex];
    const points = (wholeAt) =>
      hits.map((count, step) => [step, count, wholeAt(step)])
        .filter(([, , whole]) => whole)
        .map(([step, count, whole]) => `${x(step).toFixed(1)},${y(count / whole).toFixed(1)}`)
        .join(" ");
    lines[0].setAttribute("points", points((step) => predicted[step]));
    lines[1].setAttribute("points", points(() => support));
    const step = Number(slider.value);
    mark.setAttribute("x1", x(step));
    mark.setAttribute("x2", x(step));
    const percentage = `${Math.round((100 * step) / steps)}%`;
    slider.setAttribute("aria-valuetext", percentage);
    for (const [name, text] of Object.entries({
      value: percentage,
      precision: percent(hits[step], predicted[step]),
      recall: percent(hits[step], support),
      predicted: predicted[step].toLocaleString("en"),
    })) document.getElementById(`threshold-${name}`).textContent = text;
  };
  slider.addEventListener("input", draw);
  choice.addEventListener("change", draw);
  document.getElementById("threshold-tools").hidden = false;
  draw();
}
