// What a bench and Python say to each other: the whole state at each release of a control, one message
// at a time, and word to follow.js of what has been painted.

const WAIT = 4000; // milliseconds after which an unanswered message no longer holds the next one

function send(bench) {
  bench.unsent = isWaiting(bench);
  if (bench.unsent) return;
  bench.wanted = Math.max(bench.sent, bench.answered) + 1;
  post(bench);
}

function post(bench) {
  bench.sent = Math.max(bench.sent, bench.answered) + 1;
  bench.sentAt = performance.now();
  const { image_id } = bench.answer; // what the box and the drawn object belong to
  bench.setStateValue("view", { ...bench.state, image_id, serial: bench.sent });
  clearTimeout(bench.retry);
  bench.retry = setTimeout(() => tryAgain(bench), WAIT + 100);
}

// The same once more, in case it was lost. Where Python is merely slow, the answer to the first is as
// good: waiting for the last alone, a bench that repeats faster than it is answered would wait for ever.
function tryAgain(bench) {
  if (bench.answered >= bench.wanted) return;
  if (isHeld(bench)) bench.retry = setTimeout(() => tryAgain(bench), WAIT); // what it holds is not settled
  else post(bench);
}

// A message is on its way whose answer will come.
const isWaiting = (bench) =>
  bench.wanted > bench.answered && performance.now() - bench.sentAt < WAIT;

const isHeld = (bench) => Boolean(bench.pressed) || bench.pointers.size > 0;

// The hand has moved on, or is at work: what came last is behind it, and is not to be shown.
const isOvertaken = (bench) => bench.unsent || isWaiting(bench) || isHeld(bench);

// Tells follow.js, once for each new result, that it is on screen.
function announce(bench) {
  if (bench.announced === bench.answer.details) return;
  bench.announced = bench.answer.details;
  globalThis[PAINTED] = bench.answer.details;
  setTimeout(() => dispatchEvent(new Event("retinanet-painted")), 0);
}
