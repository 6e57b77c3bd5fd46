// What the workbench draws on its stage: boxes, ghosts, anchors, a comparison.

const LABELS_DRAWN = 160;
const TIES_DRAWN = 250;

const isComparing = (bench) =>
  bench.state.mode === "compare" && Boolean(bench.answer.compare && bench.pinned);

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
