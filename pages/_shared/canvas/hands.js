// What hands do on a stage: hover, click, drag, pinch, wheel, keys. What a click or a drag means is the
// business of bench.grip.

function showTip(bench, text, px, py) {
  bench.tip.hidden = !text;
  if (!text) return;
  bench.tip.textContent = text;
  const left = Math.min(px + 14, bench.width - bench.tip.offsetWidth - 4);
  const low = py + 14 + bench.tip.offsetHeight > bench.height;
  bench.tip.style.left = `${Math.max(4, left)}px`;
  bench.tip.style.top = `${Math.max(4, low ? py - 10 - bench.tip.offsetHeight : py + 14)}px`;
}

function place(bench, event) {
  const area = bench.stage.getBoundingClientRect();
  return [event.clientX - area.left, event.clientY - area.top];
}

// A press that has moved: the grip may take it (it gives move, drop and cancel), else it pans.
function grabbed(bench) {
  bench.held ??= bench.grip.grab(bench, locate(bench, ...bench.pressedAt).photo) ?? false;
  return bench.held;
}

function release(bench) {
  const held = bench.held;
  bench.held = null;
  bench.stage.classList.remove("dragging");
  return held;
}

function onPointerDown(bench, event) {
  if (event.target.closest("button") || event.button) return; // the first button or a finger
  const at = place(bench, event);
  if (!bench.pointers.size) Object.assign(bench, { travel: 0, pressedAt: at, held: null });
  bench.pointers.set(event.pointerId, at);
  bench.stage.setPointerCapture(event.pointerId);
}

function onPointerMove(bench, event) {
  const [x, y] = place(bench, event);
  const before = bench.pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") bench.grip.hover(bench, x, y);
    return;
  }
  bench.travel += Math.hypot(x - before[0], y - before[1]);
  if (bench.pointers.size === 2) {
    if (bench.held) release(bench).cancel();
    bench.held = false; // a pinch stays one until all fingers are up
    const other = [...bench.pointers].find(([id]) => id !== event.pointerId)[1];
    const gap = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const center = locate(bench, (x + other[0]) / 2, (y + other[1]) / 2);
    zoomBy(bench, gap([x, y]) / Math.max(1, gap(before)), center.x, center.y);
  } else if (bench.travel >= 5) {
    const held = grabbed(bench);
    if (held) held.move(locate(bench, x, y).photo);
    else if (bench.zoom > 1) {
      bench.stage.classList.add("dragging");
      panBy(bench, x - before[0], y - before[1]);
    }
  }
  bench.pointers.set(event.pointerId, [x, y]);
}

function onPointerUp(bench, event) {
  const known = bench.pointers.delete(event.pointerId);
  if (!known || bench.pointers.size) return;
  const held = release(bench);
  if (event.type !== "pointerup") held?.cancel?.();
  else if (bench.travel < 5) bench.grip.click(bench, ...place(bench, event));
  else if (held) held.drop();
}

function onWheel(bench, event) {
  const focused = bench.stage.matches(":focus");
  if (!focused && !event.ctrlKey && !event.metaKey) {
    bench.hint.hidden = false;
    clearTimeout(bench.hintTimer);
    bench.hintTimer = setTimeout(() => (bench.hint.hidden = true), 1200);
    return; // the page scrolls
  }
  event.preventDefault();
  const { x, y } = locate(bench, ...place(bench, event));
  zoomBy(bench, Math.exp(-event.deltaY * 0.0015), x, y);
}

function onKey(bench, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" && event.target !== bench.stage) return; // it presses a button of the stage
  const actions = {
    "+": () => zoomBy(bench, 1.3),
    "=": () => zoomBy(bench, 1.3),
    "-": () => zoomBy(bench, 1 / 1.3),
    0: () => zoomBy(bench, 0),
    ArrowLeft: () => panBy(bench, 60, 0),
    ArrowRight: () => panBy(bench, -60, 0),
    ArrowUp: () => panBy(bench, 0, 60),
    ArrowDown: () => panBy(bench, 0, -60),
    ...bench.grip.keys(bench),
  };
  const isArrow = event.key.startsWith("Arrow");
  if (!(event.key in actions) || (isArrow && bench.zoom === 1)) return;
  event.preventDefault();
  event.stopPropagation(); // Streamlit's own shortcuts must not see these
  actions[event.key]();
}

// What the stage shows, the photo with what is drawn over it, as a file.
function savePicture(bench) {
  const { width, height } = bench.canvas;
  const sheet = element("canvas", { width, height });
  const context = sheet.getContext("2d");
  for (const layer of [bench.photoCanvas, bench.canvas]) context.drawImage(layer, 0, 0);
  sheet.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: `${bench.answer.title.replace(/\W+/g, "_") || "picture"}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

function attachHands(bench, parent) {
  const { stage } = bench;
  stage.addEventListener("pointerdown", (event) => onPointerDown(bench, event));
  stage.addEventListener("pointermove", (event) => onPointerMove(bench, event));
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => onPointerUp(bench, event));
  }
  stage.addEventListener("pointerleave", () => bench.grip.unhover(bench));
  stage.addEventListener("wheel", (event) => onWheel(bench, event), { passive: false });
  stage.addEventListener("keydown", (event) => onKey(bench, event));
  parent.querySelector(".rn-tools").addEventListener("click", (event) => {
    if (event.target.dataset.act === "save") savePicture(bench);
    const factor = { in: 1.4, out: 1 / 1.4, fit: 0 }[event.target.dataset.act];
    if (factor !== undefined) zoomBy(bench, factor);
  });
}
