// Without this the page shows one slice of each image.
for (const part of document.querySelectorAll(".case")) {
  const slider = part.querySelector("input");
  if (!slider) continue;
  const [columns, width, height] = part.dataset.grid.split(" ").map(Number);
  slider.hidden = false;
  slider.addEventListener("input", () => {
    const z = Number(slider.value);
    const view = `${(z % columns) * width} ${Math.floor(z / columns) * height} ${width} ${height}`;
    part.querySelector("output").textContent = z;
    part.querySelectorAll("figure svg").forEach((svg) => svg.setAttribute("viewBox", view));
  });
}
