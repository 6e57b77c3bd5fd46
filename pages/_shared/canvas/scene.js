// What the stage shows: the kept boxes, and the ghosts of the step of the funnel that is chosen. It
// comes from the core's answer, or from the browser's own copy while a knob is being dragged.

function emptyScene(count) {
  return {
    count,
    boxes: new Float32Array(4 * count),
    scores: new Float32Array(count),
    labels: new Int32Array(count),
    levels: new Int32Array(count),
    pairs: new Int32Array(count),
    fates: new Uint8Array(count).fill(KEPT),
    by: new Int32Array(count).fill(-1), // the pair that suppressed it
    iou: new Float32Array(count),
  };
}

// The kept first, best first, then the ghosts.
function sceneFromAnswer(answer) {
  const { columns } = answer;
  const kept = columns.kept_scores.length;
  const ghosts = columns.ghost_scores?.length ?? 0;
  const scene = emptyScene(kept + ghosts);
  for (const name of ["boxes", "scores", "labels", "levels", "pairs"]) {
    scene[name].set(columns[`kept_${name}`], 0);
    if (ghosts) scene[name].set(columns[`ghost_${name}`], columns[`kept_${name}`].length);
  }
  if (ghosts) {
    scene.fates.set(columns.ghost_fates, kept);
    scene.by.set(columns.ghost_by, kept);
    scene.iou.set(columns.ghost_iou, kept);
  }
  scene.kept = kept;
  return scene;
}

// Besides the kept: those that came furthest first.
const STAGE_FATES = {
  all: [OVER_LIMIT, SUPPRESSED, CUT, BELOW],
  above: [OVER_LIMIT, SUPPRESSED, CUT],
  topk: [OVER_LIMIT, SUPPRESSED],
  nms: [OVER_LIMIT],
  kept: [],
};
const GHOSTS_DRAWN = 1500; // as many as the core sends, see GHOSTS in pages/_shared/answer.py
const BELOW_DRAWN = 300;

function sceneFromTable(table, result, stage) {
  const wanted = STAGE_FATES[stage].filter((fate) => fate !== BELOW);
  const ghosts = wanted
    .flatMap((fate) => [...table.order].filter((row) => result.fates[row] === fate))
    .slice(0, GHOSTS_DRAWN);
  const rows = [...result.kept, ...ghosts];
  const scene = emptyScene(rows.length);
  rows.forEach((row, i) => copyRow(table, row, scene, i, result.fates[row], result.suppressor[row]));
  scene.kept = result.kept.length;
  return scene;
}

// The best pairs below their thresholds: the core lists none of them, the table has the best.
function withBelow(table, scene, fates) {
  const rows = [...table.order].filter((row) => fates[row] === BELOW).slice(0, BELOW_DRAWN);
  const wider = emptyScene(scene.count + rows.length);
  for (const name of Object.keys(wider)) {
    if (name !== "count") wider[name].set(scene[name], 0);
  }
  rows.forEach((row, i) => copyRow(table, row, wider, scene.count + i, BELOW, -1));
  wider.kept = scene.kept;
  return wider;
}

function copyRow(table, row, scene, i, fate, suppressor) {
  const [height, width] = table.image_size;
  const [originalHeight, originalWidth] = table.original_size;
  for (let k = 0; k < 4; k++) {
    const ratio = k % 2 ? originalHeight / height : originalWidth / width;
    scene.boxes[4 * i + k] = table.boxes[4 * row + k] * ratio;
  }
  scene.scores[i] = table.scores[row];
  scene.labels[i] = table.labels[row];
  scene.levels[i] = table.levels[row];
  scene.pairs[i] = table.pairs[row];
  scene.fates[i] = fate;
  scene.by[i] = suppressor < 0 ? -1 : table.pairs[suppressor];
}

const cornersOf = (scene, i) => scene.boxes.subarray(4 * i, 4 * i + 4);
// A pinned model may have classes of its own.
const nameOf = (bench, label, scene) => (scene?.names ?? bench.names)[label] ?? `class ${label}`;
const levelOf = (scene, i) => KIT.levels[scene.levels[i]];
const areaOf = (scene, i) => {
  const [x1, y1, x2, y2] = cornersOf(scene, i);
  return (x2 - x1) * (y2 - y1);
};

function indexOfPair(scene, pair) {
  return pair < 0 ? -1 : scene.pairs.indexOf(pair);
}

function describe(bench, scene, i, separator) {
  const [x1, y1, x2, y2] = cornersOf(scene, i);
  const parts = [
    nameOf(bench, scene.labels[i], scene),
    `score ${scene.scores[i].toFixed(3)}`,
    `level ${levelOf(scene, i)}`,
    `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`,
  ];
  if (scene.fates[i] !== KEPT) parts.push(KIT.fates[scene.fates[i]].words);
  const by = indexOfPair(scene, scene.by[i]);
  if (by >= 0 && scene.iou[i]) {
    parts.push(`by the ${scene.scores[by].toFixed(3)} box, IoU ${scene.iou[i].toFixed(3)}`);
  }
  return parts.join(separator);
}
