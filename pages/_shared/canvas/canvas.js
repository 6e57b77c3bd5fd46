// The photo and its boxes. The photo comes once, through the photos component (photos.js), and is
// found here by its id; the boxes come as one packed block of bytes (retinanet/figures/boxes.py).
// Nothing is thresholded here: what arrives is what the core kept.

const PHOTOS = Symbol.for("retinanet.photos");
const PAINTED = Symbol.for("retinanet.painted");
const MAX_ZOOM = 40;
const views = new WeakMap(); // parentElement -> the state of one canvas

function photos() {
  globalThis[PHOTOS] ??= { images: new Map(), listeners: new Set() };
  return globalThis[PHOTOS];
}

// Tells follow.js, once per block of boxes, that these are on screen.
function announce(view) {
  if (view.announced === view.data.stamp) return;
  view.announced = view.data.stamp;
  globalThis[PAINTED] = view.data.stamp;
  setTimeout(() => dispatchEvent(new Event("retinanet-painted")), 0);
}

// [uint32 header length][JSON, padded to 4][float32 4n boxes][float32 n scores][int32 n labels]
// [int32 n levels][int32 n pairs]
function unpack(bytes) {
  const block = bytes.slice().buffer; // a copy starts at an aligned offset
  const length = new DataView(block).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(block, 4, length)));
  let at = 4 + Math.ceil(length / 4) * 4;
  const take = (Type, count) => {
    const part = new Type(block, at, count);
    at += part.byteLength;
    return part;
  };
  const n = header.count;
  return {
    ...header,
    boxes: take(Float32Array, 4 * n),
    scores: take(Float32Array, n),
    labels: take(Int32Array, n),
    levels: take(Int32Array, n),
    pairs: take(Int32Array, n),
  };
}

const nameOf = (data, i) => data.names[data.labels[i]];
const levelOf = (data, i) => data.level_names[data.levels[i]];
const colorOf = (data, i) =>
  data.color_by === "level" ? data.level_colors[data.levels[i]] : data.colors[data.labels[i]];
const isSelected = (data, i) => data.pairs[i] === data.selected;

function sizeOf(data, i) {
  const [x1, y1, x2, y2] = data.boxes.subarray(4 * i, 4 * i + 4);
  return [x2 - x1, y2 - y1];
}

function describe(data, i, separator) {
  const [width, height] = sizeOf(data, i).map(Math.round);
  const score = data.scores[i].toFixed(3);
  return [nameOf(data, i), `score ${score}`, `level ${levelOf(data, i)}`, `${width} × ${height} px`]
    .join(separator);
}

// ---------------------------------------------------------------- geometry

function fitScale(view) {
  return Math.min(view.width / view.data.width, view.height / view.data.height);
}

function clampPan(view) {
  const { data } = view;
  const scale = fitScale(view) * view.zoom;
  const slackX = view.width - data.width * scale;
  const slackY = view.height - data.height * scale;
  view.x = slackX >= 0 ? slackX / 2 : Math.min(0, Math.max(slackX, view.x));
  view.y = slackY >= 0 ? slackY / 2 : Math.min(0, Math.max(slackY, view.y));
  view.scale = scale;
}

function zoomBy(view, factor, cx = view.width / 2, cy = view.height / 2) {
  const before = view.scale;
  view.zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * factor));
  const ratio = (fitScale(view) * view.zoom) / before;
  view.x = cx - (cx - view.x) * ratio;
  view.y = cy - (cy - view.y) * ratio;
  view.stage.classList.toggle("zoomed", view.zoom > 1);
  requestDraw(view);
}

function panBy(view, dx, dy) {
  view.x += dx;
  view.y += dy;
  requestDraw(view);
}

// The boxes under a point, smallest first: the small one is the one that is hard to reach.
function boxesAt(view, px, py) {
  const { data } = view;
  const x = (px - view.x) / view.scale;
  const y = (py - view.y) / view.scale;
  const slack = 3 / view.scale;
  const hits = [];
  for (let i = 0; i < data.count; i++) {
    const [x1, y1, x2, y2] = data.boxes.subarray(4 * i, 4 * i + 4);
    if (x < x1 - slack || x > x2 + slack || y < y1 - slack || y > y2 + slack) continue;
    hits.push([(x2 - x1) * (y2 - y1), i]);
  }
  return hits.sort((a, b) => a[0] - b[0]).map((hit) => hit[1]);
}

// ---------------------------------------------------------------- drawing

function requestDraw(view) {
  if (view.frame) return;
  view.frame = requestAnimationFrame(() => {
    view.frame = 0;
    draw(view);
  });
}

function resize(view) {
  const width = view.stage.clientWidth;
  if (!width || !view.data) return;
  const room = Math.max(260, Math.min(window.innerHeight * 0.72, 900));
  const height = Math.round(Math.min(room, (width * view.data.height) / view.data.width));
  const ratio = window.devicePixelRatio || 1;
  view.stage.style.height = `${height}px`;
  if (view.width !== width || view.height !== height || view.ratio !== ratio) {
    view.canvas.width = Math.round(width * ratio);
    view.canvas.height = Math.round(height * ratio);
    Object.assign(view, { width, height, ratio });
  }
  requestDraw(view);
}

function rimOf(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const isDark = 0.3 * red + 0.6 * green + 0.1 * blue < 90;
  return isDark ? "rgba(255, 255, 255, 0.75)" : "rgba(0, 0, 0, 0.6)";
}

function strokeBox(context, view, i, lineWidth) {
  const [x1, y1, x2, y2] = view.data.boxes.subarray(4 * i, 4 * i + 4);
  const rectangle = [
    view.x + x1 * view.scale,
    view.y + y1 * view.scale,
    (x2 - x1) * view.scale,
    (y2 - y1) * view.scale,
  ];
  context.strokeStyle = rimOf(colorOf(view.data, i)); // keeps each colour legible on any photo
  context.lineWidth = lineWidth + 2;
  context.strokeRect(...rectangle);
  context.strokeStyle = colorOf(view.data, i);
  context.lineWidth = lineWidth;
  context.strokeRect(...rectangle);
}

// Labels go best score first; one that would cover an earlier one is left to the tooltip.
function drawLabel(context, view, i, placed, always) {
  const [x1, y1] = view.data.boxes.subarray(4 * i, 4 * i + 2);
  const tag = view.data.color_by === "level" ? ` ${levelOf(view.data, i)}` : "";
  const text = `${nameOf(view.data, i)} ${view.data.scores[i].toFixed(2)}${tag}`;
  const width = Math.ceil(context.measureText(text).width) + 10;
  const height = 19;
  const left = Math.max(0, Math.min(view.x + x1 * view.scale - 1, view.width - width));
  const above = view.y + y1 * view.scale - height;
  const top = above < 0 ? Math.max(0, above + height) : above;
  const hit = placed.some(
    (p) => left < p[0] + p[2] && p[0] < left + width && top < p[1] + p[3] && p[1] < top + height,
  );
  if (hit && !always) return;
  placed.push([left, top, width, height]);
  context.fillStyle = "rgba(15, 20, 26, 0.88)";
  context.fillRect(left, top, width, height);
  context.fillStyle = colorOf(view.data, i);
  context.fillRect(left, top, 4, height);
  context.fillStyle = "#fff";
  context.fillText(text, left + 7, top + height / 2 + 0.5);
}

function drawWatermark(context, view) {
  context.save();
  context.translate(view.width / 2, view.height / 2);
  context.rotate(-Math.PI / 9);
  const size = Math.max(18, view.width / 15);
  context.font = `700 ${size}px sans-serif`;
  context.textAlign = "center";
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0, 0, 0, 0.5)";
  context.fillStyle = "rgba(255, 255, 255, 0.62)";
  context.strokeText(view.data.watermark, 0, 0);
  context.fillText(view.data.watermark, 0, 0);
  context.restore();
}

function draw(view) {
  const { canvas, data } = view;
  if (!view.width) return;
  clampPan(view);
  const context = canvas.getContext("2d");
  context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
  const photo = photos().images.get(data.image_id);
  if (photo) {
    context.imageSmoothingEnabled = view.scale < 4;
    context.drawImage(photo, view.x, view.y, data.width * view.scale, data.height * view.scale);
  }
  for (let i = data.count - 1; i >= 0; i--) strokeBox(context, view, i, 2);
  const marked = [...Array(data.count).keys()].filter((i) => isSelected(data, i));
  if (view.hover >= 0 && view.hover < data.count) marked.push(view.hover);
  for (const i of marked) strokeBox(context, view, i, 4);
  context.font = `600 12px ${getComputedStyle(view.stage).fontFamily}`;
  context.textBaseline = "middle";
  const placed = [];
  for (const i of marked) drawLabel(context, view, i, placed, true);
  for (let i = 0; i < data.count; i++) if (!marked.includes(i)) drawLabel(context, view, i, placed);
  if (data.watermark) drawWatermark(context, view);
  // What a test or a measuring script reads: the view, and which data the pixels show.
  view.stage.dataset.view = [view.x, view.y, view.scale].join(",");
  view.stage.dataset.painted = `${data.image_id}:${data.stamp}:${photo ? "photo" : "no photo"}`;
  if (view.worded !== data) {
    view.worded = data;
    setTimeout(() => writeWords(view), 0);
  }
  announce(view);
}

// ---------------------------------------------------------------- words

function writeLegend(view) {
  const { data } = view;
  const counts = new Map();
  for (let i = 0; i < data.count; i++) {
    const key = data.color_by === "level" ? data.levels[i] : data.labels[i];
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const lead = document.createElement("span");
  lead.textContent = data.legend;
  const keys = [...counts.keys()].sort((a, b) =>
    data.color_by === "level" ? a - b : counts.get(b) - counts.get(a),
  );
  const entries = keys.slice(0, 10).map((key) => {
    const entry = document.createElement("span");
    const swatch = document.createElement("span");
    entry.className = "key";
    swatch.className = "swatch";
    swatch.style.borderColor =
      data.color_by === "level" ? data.level_colors[key] : data.colors[key];
    const name = data.color_by === "level" ? data.level_names[key] : data.names[key];
    entry.append(swatch, `${name} (${counts.get(key)})`);
    return entry;
  });
  if (keys.length > 10) entries.push(`and ${keys.length - 10} more`);
  view.legend.replaceChildren(lead, ...entries);
}

function writeList(view) {
  const items = Array.from({ length: view.data.count }, (_, i) => {
    const item = document.createElement("li");
    const corners = [...view.data.boxes.subarray(4 * i, 4 * i + 4)].map((v) => v.toFixed(1));
    item.textContent = `${describe(view.data, i, ", ")}, corners ${corners.join(" ")}`;
    return item;
  });
  view.list.replaceChildren(...items);
}

// The legend and the list wait until the boxes are on screen.
function writeWords(view) {
  const { data } = view;
  view.stage.setAttribute(
    "aria-label",
    `${data.title}, ${data.width} by ${data.height} pixels, ${data.count} detections. ` +
      "Plus and minus zoom, 0 shows the whole picture, arrows move it, " +
      "N and P step through the boxes, Escape lets go of the box.",
  );
  writeLegend(view);
  writeList(view);
}

function showTip(view, i, px, py) {
  view.tip.hidden = i < 0;
  if (i < 0) return;
  view.tip.textContent = describe(view.data, i, "\n");
  const left = Math.min(px + 14, view.width - view.tip.offsetWidth - 4);
  const top = py + 14 + view.tip.offsetHeight > view.height ? py - 10 - view.tip.offsetHeight : py + 14;
  view.tip.style.left = `${Math.max(4, left)}px`;
  view.tip.style.top = `${Math.max(4, top)}px`;
}

// ---------------------------------------------------------------- hands

function hover(view, i, px, py) {
  showTip(view, i, px, py);
  view.stage.classList.toggle("over", i >= 0);
  if (view.hover === i) return;
  view.hover = i;
  requestDraw(view);
}

function select(view, i) {
  const pair = i < 0 ? -1 : view.data.pairs[i];
  if (pair === view.data.selected) return;
  view.data.selected = pair; // shown at once; Python's answer repeats it
  requestDraw(view);
  view.setTriggerValue("pick", pair);
}

function step(view, by) {
  const { data } = view;
  if (!data.count) return;
  const now = data.pairs.indexOf(data.selected);
  select(view, now < 0 ? (by > 0 ? 0 : data.count - 1) : (now + by + data.count) % data.count);
}

function clickAt(view, px, py) {
  const hits = boxesAt(view, px, py);
  const now = hits.findIndex((i) => isSelected(view.data, i));
  if (!hits.length) select(view, -1);
  else select(view, hits[(now + 1) % hits.length]); // the same spot again reaches the box behind
}

function place(view, event) {
  const area = view.stage.getBoundingClientRect();
  return [event.clientX - area.left, event.clientY - area.top];
}

function onPointerMove(view, event) {
  const [x, y] = place(view, event);
  const before = view.pointers.get(event.pointerId);
  if (!before) {
    if (event.pointerType === "mouse") hover(view, boxesAt(view, x, y)[0] ?? -1, x, y);
    return;
  }
  view.travel += Math.hypot(x - before[0], y - before[1]);
  if (view.pointers.size === 2) {
    const other = [...view.pointers].find(([id]) => id !== event.pointerId)[1];
    const gap = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    zoomBy(view, gap([x, y]) / Math.max(1, gap(before)), (x + other[0]) / 2, (y + other[1]) / 2);
  } else if (view.zoom > 1) {
    view.stage.classList.add("dragging");
    panBy(view, x - before[0], y - before[1]);
  }
  view.pointers.set(event.pointerId, [x, y]);
}

function onPointerUp(view, event) {
  const known = view.pointers.delete(event.pointerId);
  view.stage.classList.remove("dragging");
  if (known && event.type === "pointerup" && !view.pointers.size && view.travel < 5) {
    clickAt(view, ...place(view, event));
  }
}

function onWheel(view, event) {
  const focused = view.stage.matches(":focus");
  if (!focused && !event.ctrlKey && !event.metaKey) {
    view.hint.hidden = false;
    clearTimeout(view.hintTimer);
    view.hintTimer = setTimeout(() => (view.hint.hidden = true), 1200);
    return; // the page scrolls
  }
  event.preventDefault();
  zoomBy(view, Math.exp(-event.deltaY * 0.0015), ...place(view, event));
}

function onKey(view, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "+": () => zoomBy(view, 1.3),
    "=": () => zoomBy(view, 1.3),
    "-": () => zoomBy(view, 1 / 1.3),
    0: () => zoomBy(view, 0),
    ArrowLeft: () => panBy(view, 60, 0),
    ArrowRight: () => panBy(view, -60, 0),
    ArrowUp: () => panBy(view, 0, 60),
    ArrowDown: () => panBy(view, 0, -60),
    n: () => step(view, 1),
    p: () => step(view, -1),
    Escape: () => select(view, -1),
  };
  const isArrow = event.key.startsWith("Arrow");
  if (!(event.key in actions) || (isArrow && view.zoom === 1)) return;
  event.preventDefault();
  event.stopPropagation(); // Streamlit's own shortcuts must not see these
  actions[event.key]();
}

function attach(parent) {
  const find = (name) => parent.querySelector(name);
  const view = { zoom: 1, x: 0, y: 0, scale: 1, hover: -1, pointers: new Map(), travel: 0 };
  Object.assign(view, {
    stage: find(".rn-stage"),
    canvas: find("canvas"),
    tip: find(".rn-tip"),
    hint: find(".rn-hint"),
    status: find(".rn-status"),
    legend: find(".rn-legend"),
    list: find(".rn-list"),
  });
  const { stage } = view;
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    if (!view.pointers.size) view.travel = 0;
    view.pointers.set(event.pointerId, place(view, event));
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => onPointerMove(view, event));
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => onPointerUp(view, event));
  }
  stage.addEventListener("pointerleave", () => hover(view, -1));
  stage.addEventListener("wheel", (event) => onWheel(view, event), { passive: false });
  stage.addEventListener("keydown", (event) => onKey(view, event));
  find(".rn-tools").addEventListener("click", (event) => {
    const factor = { in: 1.4, out: 1 / 1.4, fit: 0 }[event.target.dataset.act];
    if (factor !== undefined) zoomBy(view, factor);
  });
  view.observer = new ResizeObserver(() => resize(view));
  view.observer.observe(stage);
  view.onPhoto = () => requestDraw(view);
  photos().listeners.add(view.onPhoto);
  return view;
}

function detach(view) {
  view.observer.disconnect();
  photos().listeners.delete(view.onPhoto);
  cancelAnimationFrame(view.frame);
}

export default function ({ data, parentElement, setTriggerValue }) {
  if (!views.has(parentElement)) views.set(parentElement, attach(parentElement));
  const view = views.get(parentElement);
  view.setTriggerValue = setTriggerValue;
  const changed = view.data?.image_id;
  view.data = unpack(data);
  view.hover = -1;
  if (changed !== view.data.image_id) view.zoom = 1;
  view.stage.classList.toggle("zoomed", view.zoom > 1);
  view.tip.hidden = true;
  view.status.textContent = view.data.status;
  resize(view);
  return () => {
    detach(view);
    views.delete(parentElement);
  };
}
