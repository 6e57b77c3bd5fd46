// What a bench and Python say to each other: the whole state at each release of a control, one message
// at a time, and word to follow.js of what has been painted.

const WAIT = 4000; // milliseconds after which an unanswered message no longer holds the next one

function send(bench) {
  bench.unsent = isWaiting(bench);
  if (bench.unsent) return;
  bench.sent = Math.max(bench.sent, bench.answered) + 1;
  bench.sentAt = performance.now();
  const { image_id } = bench.answer; // what the box and the drawn object belong to
  bench.setStateValue("view", { ...bench.state, image_id, serial: bench.sent });
  clearTimeout(bench.retry);
  const serial = bench.sent;
  bench.retry = setTimeout(() => bench.sent === serial && bench.answered < serial && send(bench), WAIT + 100);
}

// A message is on its way whose answer will come.
const isWaiting = (bench) =>
  bench.sent > bench.answered && performance.now() - bench.sentAt < WAIT;

// The hand has moved on, or is at work: what came last is behind it, and is not to be shown.
const isOvertaken = (bench) =>
  bench.unsent || isWaiting(bench) || Boolean(bench.pressed) || bench.pointers.size > 0;

// Tells follow.js, once for each new result, that it is on screen.
function announce(bench) {
  if (bench.announced === bench.answer.details) return;
  bench.announced = bench.answer.details;
  globalThis[PAINTED] = bench.answer.details;
  setTimeout(() => dispatchEvent(new Event("retinanet-painted")), 0);
}
