// The stage: the photo on one canvas, what is drawn over it on another, in one pane or two.

const PHOTOS = Symbol.for("retinanet.photos");
const PAINTED = Symbol.for("retinanet.painted");
const MAX_ZOOM = 40;
const STACKED = 560; // narrower than this, two panes stand one above the other
const LABELS_DRAWN = 160;
const TIES_DRAWN = 250;

function photos() {
  globalThis[PHOTOS] ??= { images: new Map(), listeners: new Set() };
  return globalThis[PHOTOS];
}

// ---------------------------------------------------------------- geometry

// Where the picture is shown: one pane, or two side by side (one above the other where narrow).
function panesOf(bench) {
  const { width, height } = bench;
  if (!isComparing(bench)) return [{ left: 0, top: 0, width, height }];
  const gap = 6;
  if (width < STACKED) {
    const half = (height - gap) / 2;
    return [0, half + gap].map((top) => ({ left: 0, top, width, height: half }));
  }
  const half = (width - gap) / 2;
  return [0, half + gap].map((left) => ({ left, top: 0, width: half, height }));
}

const isComparing = (bench) =>
  bench.state.mode === "compare" && Boolean(bench.answer.compare && bench.pinned);

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

// The boxes under a point, smallest first: the small one is the one that is hard to reach.
function boxesAt(bench, px, py) {
  const { pane, photo } = locate(bench, px, py);
  const scene = sceneOfPane(bench, pane);
  const slack = 3 / bench.scale;
  const hits = [];
  for (let i = 0; i < scene.count; i++) {
    const [x1, y1, x2, y2] = cornersOf(scene, i);
    if (photo[0] < x1 - slack || photo[0] > x2 + slack) continue;
    if (photo[1] < y1 - slack || photo[1] > y2 + slack) continue;
    hits.push([areaOf(scene, i), i]);
  }
  return hits.sort((a, b) => a[0] - b[0]).map((hit) => hit[1]);
}

const sceneOfPane = (bench, pane) =>
  isComparing(bench) && pane === 0 ? bench.pinned : bench.scene;

function resize(bench) {
  const width = bench.stage.clientWidth;
  if (!width || !bench.answer) return;
  const room = Math.max(260, Math.min(window.innerHeight * 0.76, 960));
  const sideBySide = isComparing(bench) ? (width < STACKED ? 2 : 0.5) : 1;
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
    draw(bench);
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

const drawsFates = (bench) => bench.state.stage !== "kept" && bench.state.mode !== "compare";

function styleOf(bench, scene, i) {
  if (drawsFates(bench)) {
    const { color, dash } = KIT.fates[scene.fates[i]];
    return { color, dash };
  }
  const byLevel = bench.state.color === "level";
  return {
    color: byLevel ? KIT.level_colors[scene.levels[i]] : KIT.colors[scene.labels[i] % KIT.colors.length],
    dash: [],
  };
}

function labelOf(bench, scene, i) {
  const tag = bench.state.color === "level" ? ` ${levelOf(scene, i)}` : "";
  return `${nameOf(bench, scene.labels[i], scene)} ${scene.scores[i].toFixed(2)}${tag}`;
}

// From each removed box to the one that removed it.
function drawTies(context, bench, scene, only) {
  const center = (i) => {
    const [x, y, w, h] = rectangleOf(bench, cornersOf(scene, i));
    return [x + w / 2, y + h / 2];
  };
  context.setLineDash([]);
  context.lineWidth = only ? 1.5 : 1;
  context.strokeStyle = "#ffffff";
  const place = new Map(only ? [] : [...scene.pairs].map((pair, i) => [pair, i]));
  let left = TIES_DRAWN;
  for (const i of only ?? scene.pairs.keys()) {
    if (scene.by[i] < 0 || left-- <= 0) continue;
    const by = only ? indexOfPair(scene, scene.by[i]) : (place.get(scene.by[i]) ?? -1);
    if (by < 0) continue;
    context.beginPath();
    context.moveTo(...center(i));
    context.lineTo(...center(by));
    context.stroke();
  }
}

// What NMS removed and the like, faint where there are many; those that a selected box removed (or
// the one that removed it) stand out.
function drawGhosts(context, bench, scene, selected) {
  const pair = selected < 0 ? -1 : scene.pairs[selected];
  const related = (i) => scene.by[i] === pair || scene.by[selected] === scene.pairs[i];
  const own = [];
  for (let i = 0; i < scene.count; i++) if (selected >= 0 && related(i)) own.push(i);
  const usual = faintness(scene.count - scene.kept);
  const strong = faintness(own.length);
  for (let i = scene.count - 1; i >= scene.kept; i--) {
    const { color, dash } = styleOf(bench, scene, i);
    const marked = selected >= 0 && related(i);
    context.globalAlpha = selected < 0 ? usual : marked ? strong : 0.06;
    strokeThin(context, bench, cornersOf(scene, i), color, marked ? 1.5 : 1.25, dash);
  }
  context.globalAlpha = selected < 0 ? usual : strong;
  drawTies(context, bench, scene, selected < 0 ? undefined : [selected, ...own]);
  context.globalAlpha = 1;
}

function drawBoxes(context, bench, scene, pane) {
  const selected = indexOfPair(scene, bench.state.box);
  if (drawsFates(bench)) drawGhosts(context, bench, scene, selected);
  context.globalAlpha = selected < 0 ? 1 : 0.4;
  for (let i = scene.kept - 1; i >= 0; i--) {
    const { color, dash } = styleOf(bench, scene, i);
    strokeCorners(context, bench, cornersOf(scene, i), color, 2, dash);
  }
  context.globalAlpha = 1;
  const marked = new Set(selected < 0 ? [] : [selected]);
  if (bench.hover?.pane === pane && bench.hover.index < scene.count) marked.add(bench.hover.index);
  for (const i of marked) {
    const { color, dash } = styleOf(bench, scene, i);
    strokeCorners(context, bench, cornersOf(scene, i), color, 4, dash);
  }
  const placed = [];
  const write = (i, always) =>
    drawLabel(
      context, bench, cornersOf(scene, i), labelOf(bench, scene, i), styleOf(bench, scene, i).color,
      placed, always,
    );
  for (const i of marked) write(i, true);
  if (selected >= 0) return; // the others speak when hovered
  for (let i = 0; i < Math.min(scene.kept, LABELS_DRAWN); i++) if (!marked.has(i)) write(i);
}

// The anchor behind the selected box: where it came from.
function drawAnchor(context, bench) {
  const anchor = bench.answer.life?.anchor;
  if (!anchor || isBehind(bench) || bench.state.mode !== "box" || bench.answer.view.box !== bench.state.box) return;
  strokeCorners(context, bench, anchor, "#FFFFFF", 1.5, [3, 4]);
}

function drawWatermark(context, bench, pane) {
  context.save();
  context.translate(pane.width / 2, pane.height / 2);
  context.rotate(-Math.PI / 9);
  const size = Math.max(18, pane.width / 15);
  context.font = `700 ${size}px sans-serif`;
  context.textAlign = "center";
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0, 0, 0, 0.5)";
  context.fillStyle = "rgba(255, 255, 255, 0.62)";
  context.strokeText(bench.answer.watermark, 0, 0);
  context.fillText(bench.answer.watermark, 0, 0);
  context.restore();
}

function draw(bench) {
  if (!bench.width || !bench.answer) return;
  if (bench.previewWanted) preview(bench);
  clampPan(bench);
  drawPhoto(bench);
  bench.font ??= `600 12px ${getComputedStyle(bench.stage).fontFamily}`;
  inEachPane(bench, bench.canvas, (context, pane, index) => {
    context.font = bench.font;
    context.textBaseline = "middle";
    if (isComparing(bench)) drawCompared(context, bench, index);
    else if (bench.state.mode === "nms" && bench.rounds && !isBehind(bench)) drawRound(context, bench);
    else drawBoxes(context, bench, bench.scene, index);
    drawAnchor(context, bench);
    drawWanted(context, bench);
    if (bench.answer.watermark) drawWatermark(context, bench, pane);
  });
  bench.drawn = bench.live ? "live" : "core";
  report(bench);
}

// What a test or a measuring script reads: the view, and which data the pixels show.
function report(bench) {
  const { answer, stage } = bench;
  const photo = photos().images.has(answer.image_id) ? "photo" : "no photo";
  stage.dataset.view = [bench.x, bench.y, bench.scale].join(",");
  stage.dataset.painted = `${answer.image_id}:${answer.stamp}:${photo}`;
  stage.dataset.live = bench.live ? String(bench.scene.kept) : "";
  if (!bench.live && bench.worded !== answer) {
    bench.worded = answer;
    setTimeout(() => writeWords(bench), 60); // after the boxes are on screen
  }
  announce(bench);
}

// Tells follow.js, once for each new result, that it is on screen.
function announce(bench) {
  if (bench.announced === bench.answer.details) return;
  bench.announced = bench.answer.details;
  globalThis[PAINTED] = bench.answer.details;
  setTimeout(() => dispatchEvent(new Event("retinanet-painted")), 0);
}
