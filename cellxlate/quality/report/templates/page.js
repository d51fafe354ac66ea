"use strict";
// Zoom and position are shared by the panels of one plane.
const MOST_ZOOM = 32;

function niceLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= most);
}

// The input lies under attention too; it is stored once.
for (const copy of document.querySelectorAll("img[data-copy]")) {
  copy.src = copy.closest(".views").querySelector("img").src;
}

for (const plane of document.querySelectorAll(".plane")) {
  const views = [...plane.querySelectorAll(".view")];
  const fingers = new Map();
  let zoom = 1, left = 0, top = 0; // left and top in view widths and heights

  function draw() {
    left = Math.min(0, Math.max(1 - zoom, left));
    top = Math.min(0, Math.max(1 - zoom, top));
    for (const view of views) {
      view.classList.toggle("zoomed", zoom > 1);
      view.querySelector(".stage").style.transform = `translate(${100 * left}%, ${100 * top}%) scale(${zoom})`;
      const scale = view.querySelector(".scale");
      if (!scale) continue;
      const width = Number(scale.dataset.width) / zoom;
      const whole = scale.dataset.unit === "px";
      const length = whole ? Math.max(niceLength(width / 4), 1) : niceLength(width / 4);
      scale.style.width = `${100 * length / width}%`;
      scale.querySelector("span").textContent = `${Number(length.toPrecision(3))} ${scale.dataset.unit}`;
    }
  }

  function zoomAt(x, y, factor) {
    const next = Math.min(MOST_ZOOM, Math.max(1, zoom * factor));
    left = x - (x - left) * next / zoom;
    top = y - (y - top) * next / zoom;
    zoom = next;
    draw();
  }

  function placeIn(view, event) {
    const box = view.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  for (const view of views) {
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomAt(...placeIn(view, event), Math.exp(-event.deltaY / 200));
    }, { passive: false });
    view.addEventListener("dblclick", (event) => zoomAt(...placeIn(view, event), event.shiftKey ? 0.5 : 2));
    view.addEventListener("pointerdown", (event) => {
      view.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, placeIn(view, event));
    });
    view.addEventListener("pointermove", (event) => {
      const [x, y] = placeIn(view, event);
      plane.classList.toggle("pointing", event.pointerType === "mouse");
      for (const cross of plane.querySelectorAll(".cross")) {
        cross.style.left = `${100 * x}%`;
        cross.style.top = `${100 * y}%`;
      }
      const from = fingers.get(event.pointerId);
      if (!from) return;
      const other = [...fingers].find(([id]) => id !== event.pointerId);
      if (other) {
        const apart = (point) => Math.hypot(point[0] - other[1][0], point[1] - other[1][1]);
        if (apart(from) > 0.01) zoomAt((x + other[1][0]) / 2, (y + other[1][1]) / 2, apart([x, y]) / apart(from));
      } else {
        left += x - from[0];
        top += y - from[1];
        draw();
      }
      fingers.set(event.pointerId, [x, y]);
    });
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, (event) => fingers.delete(event.pointerId));
    view.addEventListener("pointerleave", () => plane.classList.remove("pointing"));
    view.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (step && zoom > 1) { left += step[0]; top += step[1]; draw(); }
      else if (event.key === "+" || event.key === "=") zoomAt(0.5, 0.5, 1.5);
      else if (event.key === "-") zoomAt(0.5, 0.5, 1 / 1.5);
      else if (event.key === "0") zoomAt(0.5, 0.5, 0);
      else return;
      event.preventDefault();
    });
  }
  for (const button of plane.querySelectorAll("button")) {
    button.addEventListener("click", () => zoomAt(0.5, 0.5, Number(button.dataset.factor)));
  }
}

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
