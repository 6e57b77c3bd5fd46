// A row (samples) or a contact sheet (a batch) of small pictures, each a button, with its boxes.

const painted = new WeakMap(); // parentElement -> the stamp it shows

// [uint32 header length][JSON, padded to 4][blobs that the header points into]
function unpack(bytes) {
  const block = bytes.slice();
  const length = new DataView(block.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(block.subarray(4, 4 + length)));
  return { header, blobs: block.subarray(4 + Math.ceil(length / 4) * 4) };
}

async function drawThumb(canvas, item, blobs) {
  const jpeg = blobs.subarray(item.offset, item.offset + item.length);
  const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
  const context = canvas.getContext("2d");
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const fit = item.boxes.length
    ? Math.min(canvas.width / bitmap.width, canvas.height / bitmap.height)
    : scale; // with boxes the whole picture shows; without, it fills its frame
  const width = bitmap.width * fit;
  const height = bitmap.height * fit;
  const left = (canvas.width - width) / 2;
  const top = (canvas.height - height) / 2;
  context.fillStyle = "rgba(128, 128, 128, 0.18)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, left, top, width, height);
  bitmap.close();
  context.lineWidth = 3;
  for (const [x1, y1, x2, y2, color] of item.boxes) {
    context.strokeStyle = color;
    context.strokeRect(left + x1 * width, top + y1 * height, (x2 - x1) * width, (y2 - y1) * height);
  }
}

function makeButton(item, blobs, setTriggerValue) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("span");
  canvas.width = 296;
  canvas.height = 204;
  caption.textContent = item.caption;
  button.type = "button";
  button.title = item.title;
  button.dataset.id = item.id;
  button.setAttribute("aria-label", `${item.title}. ${item.caption}`);
  button.append(canvas, caption);
  button.addEventListener("click", () => setTriggerValue("open", item.id));
  drawThumb(canvas, item, blobs);
  return button;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const { header, blobs } = unpack(data);
  const root = parentElement.querySelector(".rn-sheet");
  root.className = `rn-sheet ${header.layout}`;
  root.setAttribute("aria-label", header.label);
  if (painted.get(parentElement) !== header.stamp) {
    painted.set(parentElement, header.stamp);
    root.replaceChildren(...header.items.map((item) => makeButton(item, blobs, setTriggerValue)));
  }
  for (const button of root.children) {
    button.setAttribute("aria-pressed", String(button.dataset.id === header.selected));
  }
}
