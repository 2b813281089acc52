"""A headless Chromium, driven through its own debugging protocol: for the tests that open pages as a reader does."""

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # the pages are our own, and a container's root has no other way
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1400,900",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
LOCAL = ("file:", "data:", "blob:", "about:")


class Page:
    """One tab and the frames inside it.

    requests  addresses that any of them asked for
    errors    uncaught exceptions, console.error and what the browser itself logs as an error
    """

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60)
        self.numbers = itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.sessions: dict[str, str] = {}  # of frames in a process of their own: session -> address
        self._listen("")

    def _listen(self, session: str) -> None:
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable", session=session)
        # The first moments of a frame are not missed: it waits until it is listened to.
        self.call("Target.setAutoAttach", session=session, autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        self.call("Runtime.runIfWaitingForDebugger", session=session)

    def call(self, method: str, session: str = "", **parameters: Any) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']['message']}"
                return answer["result"]
            if "method" in answer:
                self._event(answer["method"], answer["params"])

    def _event(self, method: str, said: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(said["url"])
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])
        elif method == "Target.attachedToTarget":
            self.sessions[said["sessionId"]] = said["targetInfo"]["url"]
            self._listen(said["sessionId"])
        elif method == "Target.detachedFromTarget":
            self.sessions.pop(said["sessionId"], None)

    def run(self, script: str, frame: bool = False) -> Any:
        """The value of an expression, awaited; `frame`: in the one frame inside the page rather than in the page."""
        session, where = "", {}
        if frame and self.sessions:
            (session,) = self.sessions
        elif frame:
            (child,) = self.call("Page.getFrameTree")["frameTree"]["childFrames"]
            world = self.call("Page.createIsolatedWorld", frameId=child["frame"]["id"])
            where = {"contextId": world["executionContextId"]}
        found = self.call(
            "Runtime.evaluate", session, expression=script, awaitPromise=True, returnByValue=True, **where
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, frame: bool = False, seconds: float = 60) -> None:
        """Wait for an expression to be true, as JavaScript takes it: an element is."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})", frame):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.05)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")

    @property
    def abroad(self) -> list[str]:
        """What was asked for that is not in the page or beside it."""
        return [url for url in self.requests if not url.startswith(LOCAL)]


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """An empty page; the test is skipped, and says why, where there is no Chromium. `folder` is for its profile."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium to open pages in (looked for {', '.join(NAMES)}); .ci/run installs one")
    note = folder / "DevToolsActivePort"
    with (folder / "chromium.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"], stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 60
        while not (note.exists() and note.read_text().count("\n")):
            said = (folder / "chromium.log").read_text(encoding="utf-8")
            assert process.poll() is None and time.monotonic() < end, said
            time.sleep(0.05)
        port = note.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
            address = next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        page = Page(address)
        try:
            yield page
        finally:
            page.socket.close()
    finally:
        process.terminate()
        process.wait(30)
