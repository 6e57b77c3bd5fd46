// The Feature pyramid page: one map over the photo, the others beside it as small pictures, and what
// each level holds at a clicked point.

function buildPyramid(bench) {
  const { knobRoom, below } = bench;
  bench.alpha = 0.7;
  bench.swipe = 0.5;
  bench.mapSwitch = labelledSwitch("map", KIT.maps, (map) => commit(bench, { map, ...(map === "channel" ? { channel: -1 } : {}) }));
  bench.scaleSwitch = labelledSwitch("colour range", KIT.scales, (scale) => commit(bench, { scale }));
  bench.mapWords = element("p", { className: "rn-purpose" });
  bench.alphaKnob = makeKnob({
    name: "opacity", title: "opacity of the map", help: "how much of the photo shows through", scale: LINEAR,
    onLive: (value) => redraw(bench, { alpha: value }), onRelease: (value) => redraw(bench, { alpha: value }),
  });
  bench.alphaKnob.show(bench.alpha);
  knobRoom.append(bench.mapSwitch.row, bench.mapWords, bench.scaleSwitch.row, bench.alphaKnob.row, lateralRow(bench));
  bench.channelRoom = element("section", { className: "rn-channels" });
  bench.rankSwitch = labelledSwitch("channels that are", KIT.ranks, (rank) => commit(bench, { rank, channel: -1 }));
  bench.channelField = element("input", { type: "number", className: "rn-value", min: 0, step: 1 });
  bench.channelField.setAttribute("aria-label", "number of the channel");
  bench.channelField.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") bench.channelField.blur();
  });
  bench.channelField.addEventListener("change", () => {
    const channel = Math.round(Number(bench.channelField.value));
    if (bench.channelField.value !== "" && channel >= 0 && channel < bench.answer.channels) commit(bench, { channel });
    else bench.channelField.value = bench.answer.channel;
  });
  bench.channelGrid = element("div", { className: "rn-thumbs" });
  bench.channelRoom.append(element("div", { className: "rn-choices" }, bench.rankSwitch.row,
    element("label", { className: "rn-choice" }, element("span", { textContent: "channel" }), bench.channelField)), bench.channelGrid);
  bench.thumbs = element("div", { className: "rn-thumbs" });
  below.append(bench.thumbs, bench.channelRoom);
  bench.truthStyle = (own, index) => ({
    color: KIT.ground_truth, dash: [], words: own.answer.objects?.[index] ?? "", mark: "",
  });
}

function redraw(bench, changes) {
  Object.assign(bench, changes);
  requestDraw(bench);
}

// The lateral path alone at the left of a line, the merged map at the right of it.
function lateralRow(bench) {
  bench.lateral = element("input", { type: "checkbox" });
  bench.lateral.addEventListener("change", () => commit(bench, { lateral: bench.lateral.checked }));
  bench.swipeKnob = makeKnob({
    name: "swipe", title: "the line between the two", help: "left of it the lateral path alone", scale: LINEAR,
    onLive: (value) => redraw(bench, { swipe: value }), onRelease: (value) => redraw(bench, { swipe: value }),
  });
  bench.swipeKnob.show(bench.swipe);
  bench.lateralNote = element("p", { className: "rn-small" });
  return element("div", {}, element("label", { className: "rn-check" }, bench.lateral, "lateral path alone beside the merged map"),
    bench.lateralNote, bench.swipeKnob.row);
}

function receivePyramid(bench) {
  bench.gridOf = null;
}

// ---------------------------------------------------------------- drawing

function fillMap(held, answer, values, range) {
  if (answer.columns.rgb) {
    const { rgb } = answer.columns;
    for (let i = 0; i < held.pixels.length; i++) held.pixels[i] = pixelOf(rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255);
  } else fillRamp(held.pixels, values, ...range);
}

function paintPyramid(context, bench, index, pane) {
  const { answer } = bench;
  const { rows, columns, extent, range } = answer.map;
  const held = gridImage(bench, "map", rows, columns);
  fillMap(held, answer, answer.columns.values, range);
  drawGrid(context, bench, held, extent, bench.alpha);
  if (answer.columns.lateral) paintLateral(context, bench, rows, columns, extent, range);
  paintPoint(context, bench);
}

function paintLateral(context, bench, rows, columns, extent, range) {
  const held = gridImage(bench, "lateral", rows, columns);
  fillRamp(held.pixels, bench.answer.columns.lateral, ...range);
  const at = bench.x + bench.swipe * bench.answer.width * bench.scale;
  context.save();
  context.beginPath();
  context.rect(0, 0, at, bench.height);
  context.clip();
  context.clearRect(0, 0, at, bench.height); // the photo lies on the canvas beneath
  drawGrid(context, bench, held, extent, bench.alpha);
  context.restore();
  context.setLineDash([]);
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(at, 0);
  context.lineTo(at, bench.height);
  context.stroke();
}

// The cell of the clicked point on every map, and what the shown one can see.
function paintPoint(context, bench) {
  const { place } = bench.answer;
  if (!place || bench.live) return;
  for (const { box, color, dash } of place.cells) strokeCorners(context, bench, box, color, 2, dash);
  if (place.field) strokeCorners(context, bench, place.field, "#FFFFFF", 1.5, [3, 4]);
}

// ---------------------------------------------------------------- the small pictures

// A map that came as bytes over its range, cut to the part that lies on the picture.
function thumb({ rows, columns, inside }, bytes, isColour) {
  const canvas = element("canvas", { width: inside[1], height: inside[0] });
  const context = canvas.getContext("2d");
  const image = context.createImageData(inside[1], inside[0]);
  const pixels = new Uint32Array(image.data.buffer);
  for (let y = 0; y < inside[0]; y++) {
    for (let x = 0; x < inside[1]; x++) {
      const from = y * columns + x;
      pixels[y * inside[1] + x] = isColour
        ? pixelOf(bytes[3 * from], bytes[3 * from + 1], bytes[3 * from + 2], 255)
        : RAMP[bytes[from]];
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function thumbButton(bench, canvas, words, isPressed, onClick, key) {
  const button = element("button", { type: "button", dataset: { key } }, canvas, element("span", { textContent: words }));
  button.setAttribute("aria-pressed", String(isPressed));
  canvas.style.aspectRatio = `${bench.answer.width} / ${bench.answer.height}`;
  button.addEventListener("click", onClick);
  return button;
}

function showThumbs(bench) {
  const { answer } = bench;
  if (bench.gridOf === answer) return;
  bench.gridOf = answer;
  bench.thumbs.replaceChildren(...answer.thumbs.map((one) => thumbButton(
    bench, thumb(one, answer.columns[`thumb_${one.name}`], answer.colour), `${one.name} ${one.words}`,
    one.name === answer.feature, () => commit(bench, { feature: one.name, channel: -1 }), `map_${one.name}`)));
  const size = answer.map.rows * answer.map.columns;
  bench.channelGrid.replaceChildren(...(answer.grid ?? []).map(({ channel, words }, i) => thumbButton(
    bench, thumb(answer.map, answer.columns.grid.subarray(i * size, (i + 1) * size), false), words,
    channel === answer.channel, () => commit(bench, { channel }), `channel_${channel}`)));
}

// ---------------------------------------------------------------- words

function showPyramid(bench) {
  const { answer, state } = bench;
  bench.mapSwitch.show(state.map);
  bench.scaleSwitch.show(state.scale);
  bench.scaleSwitch.row.hidden = state.map === "pca";
  bench.rankSwitch.show(state.rank);
  bench.channelRoom.hidden = state.map !== "channel";
  bench.lateral.checked = state.lateral;
  setText(bench.mapWords, answer.map.words);
  setText(bench.lateralNote, state.lateral ? answer.lateral_words : "");
  bench.swipeKnob.row.hidden = !answer.columns.lateral;
  if (bench.channelField.getRootNode().activeElement !== bench.channelField) bench.channelField.value = answer.channel ?? "";
  if (!bench.live) showThumbs(bench);
  bench.headline.replaceChildren(
    element("strong", { textContent: answer.feature }),
    element("span", { textContent: answer.feature_words }),
  );
}

const mapText = (value) => (Math.abs(value) >= 0.01 || value === 0 ? value.toFixed(3) : value.toExponential(1));

function legendPyramid(bench) {
  const { map, columns, place, feature } = bench.answer;
  const keys = columns.rgb ? [element("span", { textContent: "Colour: the three main directions of the features; the same colour is the same kind of feature on all shown maps of a family." })]
    : [rampKey(mapText(map.range[0]), mapText(map.range[1]), `${feature}, ${map.title}:`)];
  if (place) keys.push(...place.cells.map(({ name, color, dash }) => legendKey(`${name}'s cell`, color, dash.length > 0)), legendKey(`what ${feature} sees there`, "#FFFFFF", true));
  return keys;
}

function describePyramid(bench, [x, y]) {
  const { map, columns, names, feature } = bench.answer;
  const [x1, y1, x2, y2] = map.extent;
  const column = Math.min(map.columns - 1, Math.max(0, Math.floor(((x - x1) / (x2 - x1)) * map.columns)));
  const row = Math.min(map.rows - 1, Math.max(0, Math.floor(((y - y1) / (y2 - y1)) * map.rows)));
  const at = row * map.columns + column;
  const place = `${feature}, row ${row}, column ${column}`;
  if (!columns.values) return place;
  const label = columns.labels ? ` ${names[columns.labels[at]] ?? `class ${columns.labels[at]}`}` : "";
  return `${place}\n${map.title} ${mapText(columns.values[at])}${label}`;
}

const PART = {
  build: buildPyramid, receive: receivePyramid, preview: () => {}, agrees: () => "",
  paint: paintPyramid, show: showPyramid, legend: legendPyramid, describe: describePyramid,
};
