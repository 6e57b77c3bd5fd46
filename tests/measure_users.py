"""Many people at the workbench at once: how long each waits for the core's answer.

`python -m tests.measure_users [USERS] [SECONDS]`: starts the app, opens that many sessions on its
websocket and lets each release a knob, think for half a second, and release again. After each
answer a session also has its panels redrawn, as a browser would. Not a test: the numbers depend on
the machine and on what else it does.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect

from retinanet.figures.columns import unpack_columns
from tests.browser import serving

THINK_SECONDS = 0.5
SETTLE_SECONDS = 0.1
"""What follow.js waits before it asks for the panels."""


class User:
    """One session: what its page holds, and how long its answers took."""

    def __init__(self, socket, seed: int) -> None:
        self.socket = socket
        self.draw = random.Random(seed)
        self.canvas = None
        self.fragments: dict[str, str] = {}
        self.times: list[float] = []

    async def open(self) -> None:
        """The first run, and more until the model has answered."""
        await self.run()
        while not self.answer()[0]["table"]:
            await asyncio.sleep(0.5)
            await self.run()

    def answer(self):
        """What the workbench was told last."""
        return unpack_columns(self.canvas.bytes)

    async def run(self, view: dict | None = None, fragment: str = "") -> None:
        """A run of the page, or of one of its fragments after a release."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        message.rerun_script.fragment_id = fragment
        if view is not None:
            state = message.rerun_script.widget_states.widgets.add()
            state.id = self.canvas.id
            state.json_value = json.dumps({"view": view})
        await self.socket.send(message.SerializeToString())
        await self.read(view["serial"] if view is not None else None)

    async def read(self, serial: int | None) -> None:
        """Until the run has ended or, after a release, its answer is there."""
        while True:
            message = ForwardMsg()
            message.ParseFromString(await asyncio.wait_for(self.socket.recv(), 120))
            kind = message.WhichOneof("type")
            if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                self.keep(message.delta)
                if serial is not None and self.answer()[0]["view"]["serial"] == serial:
                    serial = None
                    self.answered = time.perf_counter()
            elif kind == "script_finished" and serial is None:
                return

    def keep(self, delta) -> None:
        """Remember the workbench and which fragments there are."""
        element = delta.new_element
        if element.WhichOneof("type") != "bidi_component":
            return
        name = element.bidi_component.component_name
        self.fragments[name] = delta.fragment_id
        if name == "retinanet_canvas":
            self.canvas = element.bidi_component

    async def work(self, until: float) -> None:
        """Release, think, release."""
        await asyncio.sleep(self.draw.random() * THINK_SECONDS)
        while time.perf_counter() < until:
            header = self.answer()[0]
            view = {**header["view"], "image_id": header["image_id"]}
            view["serial"] += 1
            knobs = view["knobs"]
            knobs["score_thresh"] = round(self.draw.uniform(0.02, 0.6), 2)
            knobs["nms_thresh"] = round(self.draw.uniform(0.3, 0.7), 2)
            began = time.perf_counter()
            await self.run(view, self.fragments["retinanet_canvas"])
            self.times.append(1000 * (self.answered - began))
            await asyncio.sleep(SETTLE_SECONDS)
            await self.run(fragment=self.fragments["retinanet_follow"])
            await asyncio.sleep(self.draw.uniform(0.5, 1.5) * THINK_SECONDS)


async def measure(address: str, users: int, seconds: float) -> list[float]:
    """Milliseconds from release to answer, of all users."""
    stream = f"ws://{urlsplit(address).netloc}/_stcore/stream"
    sockets = [
        await connect(stream, subprotocols=["streamlit"], max_size=None) for _ in range(users)
    ]
    people = [User(socket, seed) for seed, socket in enumerate(sockets)]
    for person in people:
        await person.open()
    print(f"memory with {users} sessions open: {memory_mb(address)} MB")
    until = time.perf_counter() + seconds
    await asyncio.gather(*(person.work(until) for person in people))
    print(f"memory after {seconds:.0f} s: {memory_mb(address)} MB")
    for socket in sockets:
        await socket.close()
    return sorted(time for person in people for time in person.times)


def memory_mb(address: str) -> int:
    """Resident memory of the server (Linux)."""
    port = str(urlsplit(address).port)
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = status.with_name("cmdline").read_bytes().decode().split("\0")
            if "streamlit" in " ".join(words) and port in words:
                line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
                return int(line.split()[1]) // 1024
        except OSError:
            continue
    return 0


def main() -> None:
    """Measure and print."""
    users = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "log.txt") as address:
        times = asyncio.run(measure(address, users, seconds))
    p95 = times[int(0.95 * len(times))]
    print(
        f"{users} users, {len(times)} releases: median {statistics.median(times):.0f} ms, "
        f"p95 {p95:.0f} ms, worst {times[-1]:.0f} ms"
    )


if __name__ == "__main__":
    main()
