// Keeps the photos that Python has sent, by id, for the canvas to draw. It sits outside the part of
// the page that reruns with each knob, so a photo travels once.

const PHOTOS = Symbol.for("retinanet.photos");
const KEEP = 12; // decoded bitmaps held at most; the oldest goes first

export default function ({ data }) {
  globalThis[PHOTOS] ??= { images: new Map(), listeners: new Set() };
  const store = globalThis[PHOTOS];
  const id = new TextDecoder().decode(data.subarray(0, 64));
  if (store.images.has(id)) return;
  const blob = new Blob([data.subarray(64)], { type: "image/jpeg" });
  createImageBitmap(blob).then((bitmap) => {
    store.images.set(id, bitmap);
    for (const old of [...store.images.keys()].slice(0, -KEEP)) {
      store.images.get(old).close();
      store.images.delete(old);
    }
    for (const listener of store.listeners) listener();
  });
}
