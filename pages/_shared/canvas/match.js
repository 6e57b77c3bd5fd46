// The browser's copy of matching (retinanet/assignment.py), in float32 as there, for a bound or a box
// that is being dragged. A test compares it with the core anchor by anchor.

const BACKGROUND = 0, IGNORED = 1, FOREGROUND = 2, FORCED = 3;
const f32 = Math.fround;

// layout: {levels: [{rows, columns, stride: [y, x], cells: [[x1, y1, x2, y2], ...]}], image_size,
// original_size} -> the same with where each level begins among all anchors.
function readyLayout(layout) {
  let begin = 0;
  const levels = layout.levels.map((level) => {
    const count = level.rows * level.columns * level.cells.length;
    begin += count;
    return { ...level, begin: begin - count, count };
  });
  return { ...layout, levels, count: begin };
}

// A ground-truth box in pixels of the resized picture, as torchvision's resize_boxes gives it.
function resizedBox(layout, box) {
  const ratios = [1, 0].map((side) => f32(f32(layout.image_size[side]) / f32(layout.original_size[side])));
  return box.map((edge, i) => f32(f32(edge) * ratios[i % 2]));
}

// The anchors that overlap a box, and by which IoU: {index, iou, top}.
function overlapsOf(layout, box) {
  const [x1, y1, x2, y2] = box;
  const area = f32(f32(x2 - x1) * f32(y2 - y1));
  const index = [];
  const ious = [];
  let top = 0;
  for (const { rows, columns, stride, cells, begin } of layout.levels) {
    const [strideY, strideX] = stride;
    cells.forEach(([ax1, ay1, ax2, ay2], a) => {
      const anchorArea = f32(f32(ax2 - ax1) * f32(ay2 - ay1));
      const firstRow = Math.max(0, Math.floor((y1 - ay2) / strideY));
      const lastRow = Math.min(rows - 1, Math.ceil((y2 - ay1) / strideY));
      const firstColumn = Math.max(0, Math.floor((x1 - ax2) / strideX));
      const lastColumn = Math.min(columns - 1, Math.ceil((x2 - ax1) / strideX));
      const both = f32(area + anchorArea);
      for (let row = firstRow; row <= lastRow; row++) {
        const dy = row * strideY;
        const height = f32(Math.min(ay2 + dy, y2) - Math.max(ay1 + dy, y1));
        if (height <= 0) continue;
        for (let column = firstColumn; column <= lastColumn; column++) {
          const dx = column * strideX;
          const width = f32(Math.min(ax2 + dx, x2) - Math.max(ax1 + dx, x1));
          if (width <= 0) continue;
          const shared = f32(width * height);
          const iou = f32(shared / f32(both - shared));
          index.push(begin + (row * columns + column) * cells.length + a);
          ious.push(iou);
          if (iou > top) top = iou;
        }
      }
    });
  }
  return { index: Int32Array.from(index), iou: Float32Array.from(ious), top };
}

// Each anchor's best IoU and the object it is with; of equals the first object, as in torch.
function bestOf(layout, overlaps) {
  const iou = new Float32Array(layout.count);
  const object = new Int16Array(layout.count).fill(overlaps.length ? 0 : -1);
  overlaps.forEach(({ index, iou: own }, g) => {
    for (let k = 0; k < index.length; k++) {
      const at = index[k];
      if (own[k] > iou[at]) {
        iou[at] = own[k];
        object[at] = g;
      }
    }
  });
  return { iou, object };
}

// What each anchor is, from the two bounds and the low-quality rule.
function statesOf(layout, overlaps, best, { fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches }) {
  const states = new Uint8Array(layout.count);
  if (!overlaps.length) return states;
  const [high, low] = [f32(fg_iou_thresh), f32(bg_iou_thresh)];
  const { iou } = best;
  for (let i = 0; i < states.length; i++) {
    states[i] = iou[i] < low ? BACKGROUND : iou[i] < high ? IGNORED : FOREGROUND;
  }
  if (!allow_low_quality_matches) return states;
  for (const { index, iou: own, top } of overlaps) {
    if (top === 0) {
      for (let i = 0; i < states.length; i++) if (states[i] < FOREGROUND) states[i] = FORCED;
      continue;
    }
    for (let k = 0; k < index.length; k++) {
      if (own[k] === top && states[index[k]] < FOREGROUND) states[index[k]] = FORCED;
    }
  }
  return states;
}

// Per level [background, ignored, foreground, of these forced].
function countStates(layout, states) {
  return layout.levels.map(({ begin, count }) => {
    const found = [0, 0, 0, 0];
    for (let i = begin; i < begin + count; i++) found[states[i]]++;
    return [found[BACKGROUND], found[IGNORED], found[FOREGROUND] + found[FORCED], found[FORCED]];
  });
}

// What the anchors of each object are: {best IoU, foreground anchors, of these forced}.
function countObjects(overlaps, best, states) {
  return overlaps.map(({ index, top }, g) => {
    const found = { iou: top, foreground: 0, forced: 0 };
    for (let k = 0; k < index.length; k++) {
      const at = index[k];
      if (best.object[at] !== g || states[at] < FOREGROUND) continue;
      found.foreground++;
      if (states[at] === FORCED) found.forced++;
    }
    return found;
  });
}

// An anchor's corners in pixels of the picture.
function anchorBox(layout, at) {
  const { levels, image_size: [height, width], original_size: [oldHeight, oldWidth] } = layout;
  const level = levels.findLast(({ begin }) => begin <= at);
  const cell = Math.floor((at - level.begin) / level.cells.length);
  const [x, y] = [(cell % level.columns) * level.stride[1], Math.floor(cell / level.columns) * level.stride[0]];
  const [x1, y1, x2, y2] = level.cells[(at - level.begin) % level.cells.length];
  const [across, down] = [oldWidth / width, oldHeight / height];
  return [(x1 + x) * across, (y1 + y) * down, (x2 + x) * across, (y2 + y) * down];
}

// Where a level's cells lie, each around the centre of its anchors: [x1, y1, x2, y2] of the whole grid.
function anchorExtent(layout, level) {
  const { rows, columns, stride: [strideY, strideX] } = layout.levels[level];
  const [across, down] = [layout.original_size[1] / layout.image_size[1], layout.original_size[0] / layout.image_size[0]];
  return [-0.5 * strideX * across, -0.5 * strideY * down, (columns - 0.5) * strideX * across, (rows - 0.5) * strideY * down];
}

// The cell of a level whose anchors' centre is nearest to a point of the picture.
function cellOfPoint(layout, level, [x, y]) {
  const { rows, columns, stride: [strideY, strideX] } = layout.levels[level];
  const [across, down] = [layout.image_size[1] / layout.original_size[1], layout.image_size[0] / layout.original_size[0]];
  const column = Math.min(columns - 1, Math.max(0, Math.round((x * across) / strideX)));
  const row = Math.min(rows - 1, Math.max(0, Math.round((y * down) / strideY)));
  return row * columns + column;
}

// A grid with one value for each cell: the largest of its anchors'.
function largestOfCells(layout, level, values, into) {
  const { begin, count, cells } = layout.levels[level];
  const each = cells.length;
  for (let cell = 0, at = begin; at < begin + count; cell++) {
    let largest = values[at++];
    for (let a = 1; a < each; a++, at++) if (values[at] > largest) largest = values[at];
    into[cell] = largest;
  }
  return into;
}
