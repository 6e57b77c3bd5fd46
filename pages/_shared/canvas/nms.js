// Threshold -> top-K -> NMS -> cap over the candidate table, for a knob that is being dragged: the
// browser's copy of what retinanet/detection.py does. Every operation is rounded to float32 in the
// order of torchvision's kernel, so the same boxes are kept; tests/test_browser_nms.py proves it.

const BELOW = 0;
const CUT = 1;
const SUPPRESSED = 2;
const OVER_LIMIT = 3;
const KEPT = 4;

// Rows of the table from best to worst; equal scores stay in the order of the table: by level, then
// by rank.
function mergedOrder(scores) {
  const order = Int32Array.from(scores, (_, row) => row);
  return order.sort((a, b) => scores[b] - scores[a] || a - b);
}

function levelOfRows(counts) {
  const levels = new Uint8Array(counts.reduce((sum, count) => sum + count, 0));
  let at = 0;
  counts.forEach((count, level) => {
    levels.fill(level, at, at + count);
    at += count;
  });
  return levels;
}

// What enters NMS, best first, and the fates that are decided before it.
function enterNms(table, knobs, fates) {
  const threshold = Math.fround(knobs.score_thresh);
  const floors = new Map(
    Object.entries(knobs.class_score_thresh ?? {}).map(([label, floor]) => [+label, Math.fround(floor)]),
  );
  const seen = new Int32Array(table.counts.length);
  const entering = [];
  for (const row of table.order) {
    const score = table.scores[row];
    if (!(score > threshold)) break; // the rest scores less
    const floor = floors.size ? floors.get(table.labels[row]) : undefined;
    if (floor !== undefined && !(score > floor)) continue;
    const level = table.levels[row];
    seen[level] += 1;
    if (seen[level] > knobs.topk_candidates) {
      fates[row] = CUT;
      continue;
    }
    entering.push(row);
  }
  return { entering: Int32Array.from(entering), seen };
}

// The coordinates that NMS compares, [x1, y1, x2, y2, area] a row: up to a number of boxes
// torchvision moves each class by an offset and rounds to float32; beyond it compares them as they
// are.
function comparedBoxes(table, entering) {
  const { boxes, labels } = table;
  const n = entering.length;
  let largest = -Infinity;
  for (const row of entering) {
    for (let k = 4 * row; k < 4 * row + 4; k++) if (boxes[k] > largest) largest = boxes[k];
  }
  const stride = n <= table.trick_limit ? Math.fround(largest + 1) : 0;
  const compared = new Float32Array(5 * n);
  for (let i = 0; i < n; i++) {
    const row = entering[i];
    const shift = Math.fround(labels[row] * stride);
    for (let k = 0; k < 4; k++) compared[5 * i + k] = boxes[4 * row + k] + shift;
    const width = Math.fround(compared[5 * i + 2] - compared[5 * i]);
    const height = Math.fround(compared[5 * i + 3] - compared[5 * i + 1]);
    compared[5 * i + 4] = width * height;
  }
  return compared;
}

function iouOf(compared, i, j) {
  const a = 5 * i;
  const b = 5 * j;
  const width = Math.fround(
    Math.min(compared[a + 2], compared[b + 2]) - Math.max(compared[a], compared[b]),
  );
  const height = Math.fround(
    Math.min(compared[a + 3], compared[b + 3]) - Math.max(compared[a + 1], compared[b + 1]),
  );
  if (!(width > 0 && height > 0)) return 0;
  const inter = Math.fround(width * height);
  return Math.fround(inter / Math.fround(Math.fround(compared[a + 4] + compared[b + 4]) - inter));
}

// A threshold below 0 does not exist, so boxes that do not touch never suppress each other.
function runNms(table, entering, nmsThresh, fates, suppressor) {
  const compared = comparedBoxes(table, entering);
  const survivorsOfClass = new Map();
  const survivors = [];
  for (let i = 0; i < entering.length; i++) {
    const row = entering[i];
    const label = table.labels[row];
    let rivals = survivorsOfClass.get(label);
    if (!rivals) survivorsOfClass.set(label, (rivals = []));
    let by = -1;
    for (const rival of rivals) {
      if (iouOf(compared, rival, i) > nmsThresh) {
        by = rival;
        break;
      }
    }
    if (by < 0) {
      rivals.push(i);
      survivors.push(row);
    } else {
      fates[row] = SUPPRESSED;
      suppressor[row] = entering[by];
    }
  }
  return survivors;
}

// Whether a level's rows beyond the table could matter at these settings.
function isCovered(table, level, knobs, seen) {
  const last = table.starts[level] + table.counts[level] - 1;
  return (
    table.counts[level] === table.totals[level] ||
    seen >= knobs.topk_candidates ||
    !(table.scores[last] > Math.fround(knobs.score_thresh))
  );
}

// Pairs of a level above their thresholds: [count, whether it is exact].
function countAbove(table, level, knobs, seen) {
  const last = table.starts[level] + table.counts[level] - 1;
  const complete = table.counts[level] === table.totals[level];
  if (complete || !(table.scores[last] > Math.fround(knobs.score_thresh))) return [seen, true];
  const step = Math.round(knobs.score_thresh * 100);
  const onStep = Math.abs(knobs.score_thresh * 100 - step) < 1e-9;
  const floored = Object.values(knobs.class_score_thresh ?? {}).some((v) => v > knobs.score_thresh);
  return [Math.max(seen, table.above[level][step]), onStep && !floored];
}

// The answer to the knobs from the table alone.
//   fates, suppressor: per row of the table (suppressor -1 for none); kept: rows, best first;
//   counts[level][fate]. Where the table is too short to be sure, `covered` (of what is kept) or
//   `counted` (of the counts) is false.
function settle(table, knobs) {
  const rows = table.scores.length;
  const fates = new Uint8Array(rows); // BELOW
  const suppressor = new Int32Array(rows).fill(-1);
  const { entering, seen } = enterNms(table, knobs, fates);
  const survivors = runNms(table, entering, knobs.nms_thresh, fates, suppressor);
  survivors.forEach((row, i) => {
    fates[row] = i < knobs.detections_per_img ? KEPT : OVER_LIMIT;
  });
  let counted = true;
  const counts = table.counts.map((count, level) => {
    const perFate = [0, 0, 0, 0, 0];
    for (let row = table.starts[level]; row < table.starts[level] + count; row++) {
      perFate[fates[row]] += 1;
    }
    const [above, sure] = countAbove(table, level, knobs, seen[level]);
    const taken = perFate[SUPPRESSED] + perFate[OVER_LIMIT] + perFate[KEPT];
    counted &&= sure && taken === Math.min(above, knobs.topk_candidates);
    perFate[BELOW] = table.totals[level] - above;
    perFate[CUT] = above - taken;
    return perFate;
  });
  const covered = table.counts.every((_, level) => isCovered(table, level, knobs, seen[level]));
  const kept = survivors.slice(0, knobs.detections_per_img);
  return { fates, suppressor, counts, counted, covered, kept };
}

// A table ready to answer, from what unpackColumns gives for retinanet/figures/candidate_table.py.
function readyTable({ columns, ...header }) {
  const starts = header.counts.map((_, level) =>
    header.counts.slice(0, level).reduce((sum, count) => sum + count, 0),
  );
  const { boxes, scores, labels, pairs } = columns;
  const levels = levelOfRows(header.counts);
  return { ...header, key: header.stamp, boxes, scores, labels, pairs, levels, starts, order: mergedOrder(scores) };
}
