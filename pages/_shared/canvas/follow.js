// Asks Python for the panels of what the canvas shows, once the canvas has painted it: the picture
// answers a knob first, and what takes the browser longer to lay out comes after.

const PAINTED = Symbol.for("retinanet.painted");
const REST = 90; // milliseconds without a new picture: a knob that still moves is not interrupted
const followers = new WeakMap(); // parentElement -> its state

function check(follower) {
  clearTimeout(follower.timer);
  follower.timer = setTimeout(() => {
    const painted = globalThis[PAINTED];
    if (!painted || painted === follower.shown || painted === follower.asked) return;
    follower.asked = painted;
    follower.setTriggerValue("behind", painted);
  }, REST);
}

export default function ({ data, parentElement, setTriggerValue }) {
  if (!followers.has(parentElement)) {
    const created = {};
    created.listener = () => check(created);
    addEventListener("retinanet-painted", created.listener);
    followers.set(parentElement, created);
  }
  const follower = followers.get(parentElement);
  Object.assign(follower, { shown: data.stamp, asked: null, setTriggerValue });
  check(follower);
  return () => {
    clearTimeout(follower.timer);
    removeEventListener("retinanet-painted", follower.listener);
    followers.delete(parentElement);
  };
}
