// A stage: the photo on one canvas, what is drawn over it on another, in one pane or two. A bench owns
// it and says what is drawn (bench.draw) and when it is split in two (bench.isSplit).

const PHOTOS = Symbol.for("retinanet.photos");
const PAINTED = Symbol.for("retinanet.painted");
const MAX_ZOOM = 40;
const STACKED = 560; // narrower than this, two panes stand one above the other

function photos() {
  globalThis[PHOTOS] ??= { images: new Map(), listeners: new Set() };
  return globalThis[PHOTOS];
}

// ---------------------------------------------------------------- geometry

// Where the picture is shown: one pane, or two side by side (one above the other where narrow).
function panesOf(bench) {
  const { width, height } = bench;
  if (!bench.isSplit(bench)) return [{ left: 0, top: 0, width, height }];
  const gap = 6;
  if (width < STACKED) {
    const half = (height - gap) / 2;
    return [0, half + gap].map((top) => ({ left: 0, top, width, height: half }));
  }
  const half = (width - gap) / 2;
  return [0, half + gap].map((left) => ({ left, top: 0, width: half, height }));
}

function fitScale(bench) {
  const [pane] = panesOf(bench);
  return Math.min(pane.width / bench.answer.width, pane.height / bench.answer.height);
}

function clampPan(bench) {
  const [pane] = panesOf(bench);
  const scale = fitScale(bench) * bench.zoom;
  const slackX = pane.width - bench.answer.width * scale;
  const slackY = pane.height - bench.answer.height * scale;
  bench.x = slackX >= 0 ? slackX / 2 : Math.min(0, Math.max(slackX, bench.x));
  bench.y = slackY >= 0 ? slackY / 2 : Math.min(0, Math.max(slackY, bench.y));
  bench.scale = scale;
}

function zoomBy(bench, factor, cx, cy) {
  const [pane] = panesOf(bench);
  const [px, py] = [cx ?? pane.width / 2, cy ?? pane.height / 2];
  const before = bench.scale;
  bench.zoom = Math.min(MAX_ZOOM, Math.max(1, bench.zoom * factor));
  const ratio = (fitScale(bench) * bench.zoom) / before;
  bench.x = px - (px - bench.x) * ratio;
  bench.y = py - (py - bench.y) * ratio;
  bench.stage.classList.toggle("zoomed", bench.zoom > 1);
  requestDraw(bench);
}

function panBy(bench, dx, dy) {
  bench.x += dx;
  bench.y += dy;
  requestDraw(bench);
}

// A point of the stage in its pane, and in pixels of the picture.
function locate(bench, px, py) {
  const panes = panesOf(bench);
  const last = panes[panes.length - 1];
  const index = panes.length > 1 && (px >= last.left && py >= last.top) ? 1 : 0;
  const [x, y] = [px - panes[index].left, py - panes[index].top];
  return { pane: index, x, y, photo: [(x - bench.x) / bench.scale, (y - bench.y) / bench.scale] };
}

function resize(bench) {
  const width = bench.stage.clientWidth;
  if (!width || !bench.answer) return;
  const room = Math.max(260, Math.min(window.innerHeight * 0.76, 960));
  const sideBySide = bench.isSplit(bench) ? (width < STACKED ? 2 : 0.5) : 1;
  const natural = (width * bench.answer.height * sideBySide) / bench.answer.width;
  const height = Math.round(Math.min(room, Math.max(natural, 200)));
  const ratio = window.devicePixelRatio || 1;
  bench.stage.style.height = `${height}px`;
  if (bench.width !== width || bench.height !== height || bench.ratio !== ratio) {
    for (const canvas of [bench.canvas, bench.photoCanvas]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    Object.assign(bench, { width, height, ratio, photoShown: "" });
  }
  requestDraw(bench);
}

// ---------------------------------------------------------------- drawing

function requestDraw(bench) {
  if (bench.frame) return;
  bench.frame = requestAnimationFrame(() => {
    bench.frame = 0;
    bench.draw(bench);
  });
}

function inEachPane(bench, canvas, paint) {
  const context = canvas.getContext("2d");
  context.setTransform(bench.ratio, 0, 0, bench.ratio, 0, 0);
  context.clearRect(0, 0, bench.width, bench.height);
  panesOf(bench).forEach((pane, index) => {
    context.save();
    context.beginPath();
    context.rect(pane.left, pane.top, pane.width, pane.height);
    context.clip();
    context.translate(pane.left, pane.top);
    paint(context, pane, index);
    context.restore();
  });
}

// The photo is drawn again only when it, or where it stands, has changed.
function drawPhoto(bench) {
  const { answer } = bench;
  const photo = photos().images.get(answer.image_id);
  const panes = panesOf(bench).length;
  const wanted = [answer.image_id, Boolean(photo), bench.x, bench.y, bench.scale, panes].join();
  if (bench.photoShown === wanted) return;
  bench.photoShown = wanted;
  inEachPane(bench, bench.photoCanvas, (context) => {
    if (!photo) return;
    context.imageSmoothingEnabled = bench.scale < 4;
    context.drawImage(
      photo, bench.x, bench.y, answer.width * bench.scale, answer.height * bench.scale,
    );
  });
}

function rectangleOf(bench, [x1, y1, x2, y2]) {
  const { x, y, scale } = bench;
  return [x + x1 * scale, y + y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale];
}

const rims = new Map();
function rimOf(color) {
  if (!rims.has(color)) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const isDark = 0.3 * red + 0.6 * green + 0.1 * blue < 90;
    rims.set(color, isDark ? "rgba(255, 255, 255, 0.75)" : "rgba(0, 0, 0, 0.6)");
  }
  return rims.get(color);
}

function strokeCorners(context, bench, corners, color, lineWidth, dash = []) {
  const rectangle = rectangleOf(bench, corners);
  context.setLineDash(dash);
  context.strokeStyle = rimOf(color); // keeps each colour legible on any photo
  context.lineWidth = lineWidth + (dash.length ? 1 : 2);
  context.strokeRect(...rectangle);
  strokeThin(context, bench, corners, color, lineWidth, dash);
}

function strokeThin(context, bench, corners, color, lineWidth, dash) {
  context.setLineDash(dash);
  context.strokeStyle = color;
  context.lineWidth = lineWidth;
  context.strokeRect(...rectangleOf(bench, corners));
}

// So many lines over each other that each must be fainter for the photo to be seen.
const faintness = (count) => Math.max(0.16, Math.min(1, 7 / Math.sqrt(Math.max(1, count))));

// Labels go best score first; one that would cover an earlier one is left to the tooltip.
function drawLabel(context, bench, corners, text, color, placed, always) {
  const [pane] = panesOf(bench);
  const width = Math.ceil(context.measureText(text).width) + 10;
  const height = 19;
  const left = Math.max(0, Math.min(bench.x + corners[0] * bench.scale - 1, pane.width - width));
  const above = bench.y + corners[1] * bench.scale - height;
  const top = above < 0 ? Math.max(0, above + height) : above;
  const hit = placed.some(
    (p) => left < p[0] + p[2] && p[0] < left + width && top < p[1] + p[3] && p[1] < top + height,
  );
  if (hit && !always) return;
  placed.push([left, top, width, height]);
  context.fillStyle = "rgba(15, 20, 26, 0.88)";
  context.fillRect(left, top, width, height);
  context.fillStyle = color;
  context.fillRect(left, top, 4, height);
  context.fillStyle = "#fff";
  context.fillText(text, left + 7, top + height / 2 + 0.5);
}
