"use strict";
const strip = document.getElementById("strip");
const figures = strip ? [...strip.querySelectorAll("figure")] : [];
if (figures.length > 1) {
  const row = document.createElement("div"), slider = document.createElement("input"), now = document.createElement("output");
  row.className = "slider";
  Object.assign(slider, { type: "range", id: "step", min: 0, max: figures.length - 1, step: 1, value: figures.length - 1 });
  slider.setAttribute("aria-label", "training step");
  now.htmlFor = "step";
  row.append(slider, now);
  strip.before(row);
  strip.classList.add("one");
  strip.removeAttribute("tabindex");
  const show = () => {
    figures.forEach((figure, k) => { figure.hidden = k !== Number(slider.value); });
    const title = figures[slider.value].querySelector("figcaption").textContent;
    now.textContent = title;
    slider.setAttribute("aria-valuetext", title);
  };
  for (const figure of figures) figure.querySelector("figcaption").hidden = true;
  slider.addEventListener("input", show);
  show();
}
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
