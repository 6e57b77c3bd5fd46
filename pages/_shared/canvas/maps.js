// Grids over the photo: one colour for each cell of a feature map, each where it lies.

const images = new WeakMap(); // bench -> Map(name -> {canvas, context, image})

function gridImage(bench, name, rows, columns) {
  if (!images.has(bench)) images.set(bench, new Map());
  const own = images.get(bench);
  let held = own.get(name);
  if (!held || held.canvas.width !== columns || held.canvas.height !== rows) {
    const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    held = { canvas, context, image, pixels: new Uint32Array(image.data.buffer) };
    own.set(name, held);
  }
  return held;
}

// A colour as the 32 bits that an ImageData holds (little-endian: red first).
const pixelOf = (red, green, blue, alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

function pixelFromHex(color, alpha) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return pixelOf(red, green, blue, Math.round(255 * alpha));
}

const RAMP = Uint32Array.from(KIT.ramp, (color) => pixelFromHex(color, 1));
// The same, clear at its low end: where there is little, the photo shows.
const FADED = Uint32Array.from(KIT.ramp, (color, i) => pixelFromHex(color, Math.min(1, i / 160)));

// Fills a grid from values, low to high over the ramp; what is not a number stays clear.
function fillRamp(pixels, values, low, high, ramp = RAMP) {
  const factor = high > low ? (ramp.length - 0.001) / (high - low) : 0;
  const last = ramp.length - 1;
  for (let i = 0; i < pixels.length; i++) {
    const at = (values[i] - low) * factor;
    pixels[i] = at === at ? ramp[at < 0 ? 0 : at > last ? last : at | 0] : 0;
  }
}

// extent: where the whole grid lies, [x1, y1, x2, y2] in pixels of the picture.
function drawGrid(context, bench, held, extent, alpha, blend = "source-over") {
  held.context.putImageData(held.image, 0, 0);
  const [x1, y1, x2, y2] = extent;
  const { x, y, scale, answer } = bench;
  context.save();
  context.beginPath();
  context.rect(x, y, answer.width * scale, answer.height * scale); // padding lies outside the picture
  context.clip();
  context.imageSmoothingEnabled = false;
  context.globalAlpha = alpha;
  context.globalCompositeOperation = blend;
  context.drawImage(held.canvas, x + x1 * scale, y + y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale);
  context.restore();
}

// A bar of the ramp with its two ends in words, under the picture.
function rampKey(low, high, title) {
  const bar = element("span", { className: "rn-ramp" });
  bar.style.background = `linear-gradient(90deg, ${KIT.ramp.filter((_, i) => i % 16 === 0).join()})`;
  return element("span", { className: "key" }, `${title} ${low}`, bar, high);
}
