// What hands do on the stage: hover, click, drag, pinch, wheel, keys, and drawing the object that
// was missed.

function showTip(bench, text, px, py) {
  bench.tip.hidden = !text;
  if (!text) return;
  bench.tip.textContent = text;
  const left = Math.min(px + 14, bench.width - bench.tip.offsetWidth - 4);
  const low = py + 14 + bench.tip.offsetHeight > bench.height;
  bench.tip.style.left = `${Math.max(4, left)}px`;
  bench.tip.style.top = `${Math.max(4, low ? py - 10 - bench.tip.offsetHeight : py + 14)}px`;
}

function hover(bench, px, py) {
  const { pane } = locate(bench, px, py);
  const index = boxesAt(bench, px, py)[0] ?? -1;
  const before = bench.hover;
  bench.hover = index < 0 ? null : { pane, index };
  showTip(bench, index < 0 ? "" : describe(bench, sceneOfPane(bench, pane), index, "\n"), px, py);
  bench.stage.classList.toggle("over", index >= 0);
  if (before?.index !== bench.hover?.index || before?.pane !== bench.hover?.pane) requestDraw(bench);
}

function unhover(bench) {
  if (!bench.hover) return;
  bench.hover = null;
  bench.tip.hidden = true;
  requestDraw(bench);
}

function select(bench, pair) {
  if (pair === bench.state.box) return;
  const mode = pair >= 0 && bench.state.mode === "whynot" ? "box" : bench.state.mode;
  commit(bench, { box: pair, mode });
}

function stepBox(bench, by) {
  const { scene } = bench;
  if (!scene.count) return;
  const now = indexOfPair(scene, bench.state.box);
  const next = now < 0 ? (by > 0 ? 0 : scene.count - 1) : (now + by + scene.count) % scene.count;
  select(bench, scene.pairs[next]);
}

function clickAt(bench, px, py) {
  const { pane } = locate(bench, px, py);
  const scene = sceneOfPane(bench, pane);
  if (scene.foreign) return; // a pinned model's pairs are not this one's
  const hits = boxesAt(bench, px, py);
  const now = hits.findIndex((i) => scene.pairs[i] === bench.state.box);
  if (!hits.length) select(bench, -1);
  else if (hits.length === 1 && now === 0) select(bench, -1); // the same click opens and closes
  else select(bench, scene.pairs[hits[(now + 1) % hits.length]]); // again: the box behind
}

function place(bench, event) {
  const area = bench.stage.getBoundingClientRect();
  return [event.clientX - area.left, event.clientY - area.top];
}

const isDrawing = (bench) => bench.state.mode === "whynot" && bench.pointers.size === 1;

function drawWantedTo(bench, x, y) {
  const { photo } = locate(bench, x, y);
  const [x0, y0] = bench.wantedFrom;
  const inside = (value, limit) => Math.min(limit, Math.max(0, value));
  const xs = [x0, photo[0]].map((v) => inside(v, bench.answer.width)).sort((a, b) => a - b);
  const ys = [y0, photo[1]].map((v) => inside(v, bench.answer.height)).sort((a, b) => a - b);
  bench.state.why = [xs[0], ys[0], xs[1], ys[1]];
  requestDraw(bench);
}

function onPointerDown(bench, event) {
  if (event.target.closest("button") || event.button) return; // the first button or a finger
  if (!bench.pointers.size) bench.travel = 0;
  const [x, y] = place(bench, event);
  bench.pointers.set(event.pointerId, [x, y]);
  bench.wantedFrom = locate(bench, x, y).photo;
  bench.wantedBefore = bench.state.why;
  bench.stage.setPointerCapture(event.pointerId);
}

function onPointerMove(bench, event) {
  const [x, y] = place(bench, event);
  const before = bench.pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") hover(bench, x, y);
    return;
  }
  bench.travel += Math.hypot(x - before[0], y - before[1]);
  if (bench.pointers.size === 2) {
    const other = [...bench.pointers].find(([id]) => id !== event.pointerId)[1];
    const gap = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const center = locate(bench, (x + other[0]) / 2, (y + other[1]) / 2);
    if (bench.state.mode === "whynot") bench.state.why = bench.wantedBefore;
    zoomBy(bench, gap([x, y]) / Math.max(1, gap(before)), center.x, center.y);
  } else if (isDrawing(bench)) {
    if (bench.travel >= 5) drawWantedTo(bench, x, y);
  } else if (bench.zoom > 1) {
    bench.stage.classList.add("dragging");
    panBy(bench, x - before[0], y - before[1]);
  }
  bench.pointers.set(event.pointerId, [x, y]);
}

function onPointerUp(bench, event) {
  const wasDrawing = isDrawing(bench);
  const known = bench.pointers.delete(event.pointerId);
  bench.stage.classList.remove("dragging");
  if (!known || bench.pointers.size) return;
  if (event.type !== "pointerup") {
    if (wasDrawing) bench.state.why = bench.wantedBefore;
    requestDraw(bench);
  } else if (bench.travel < 5) {
    clickAt(bench, ...place(bench, event));
  } else if (wasDrawing && bench.state.why !== bench.wantedBefore) {
    const [x1, y1, x2, y2] = bench.state.why;
    const large = x2 - x1 >= 2 && y2 - y1 >= 2;
    commit(bench, { why: large ? bench.state.why : bench.wantedBefore });
  }
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

function letGo(bench) {
  if (bench.state.mode === "whynot" && bench.state.why) commit(bench, { why: null });
  else select(bench, -1);
}

function onKey(bench, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "+": () => zoomBy(bench, 1.3),
    "=": () => zoomBy(bench, 1.3),
    "-": () => zoomBy(bench, 1 / 1.3),
    0: () => zoomBy(bench, 0),
    ArrowLeft: () => panBy(bench, 60, 0),
    ArrowRight: () => panBy(bench, -60, 0),
    ArrowUp: () => panBy(bench, 0, 60),
    ArrowDown: () => panBy(bench, 0, -60),
    n: () => stepBox(bench, 1),
    p: () => stepBox(bench, -1),
    w: () => commit(bench, { mode: bench.state.mode === "whynot" ? "box" : "whynot" }),
    Escape: () => letGo(bench),
  };
  const isArrow = event.key.startsWith("Arrow");
  if (!(event.key in actions) || (isArrow && bench.zoom === 1)) return;
  event.preventDefault();
  event.stopPropagation(); // Streamlit's own shortcuts must not see these
  actions[event.key]();
}

function attachHands(bench, parent) {
  const { stage } = bench;
  stage.addEventListener("pointerdown", (event) => onPointerDown(bench, event));
  stage.addEventListener("pointermove", (event) => onPointerMove(bench, event));
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => onPointerUp(bench, event));
  }
  stage.addEventListener("pointerleave", () => unhover(bench));
  stage.addEventListener("wheel", (event) => onWheel(bench, event), { passive: false });
  stage.addEventListener("keydown", (event) => onKey(bench, event));
  parent.querySelector(".rn-tools").addEventListener("click", (event) => {
    const factor = { in: 1.4, out: 1 / 1.4, fit: 0 }[event.target.dataset.act];
    if (factor !== undefined) zoomBy(bench, factor);
  });
}
