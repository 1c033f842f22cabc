"""A page in Debian's Chromium, driven through its DevTools pipe: what it logs, requests, and how it looks."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]
_FLAGS = (
    *("--headless=new", "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--remote-debugging-pipe",
)
_LIMIT_S = 30.0
# The protocol is spoken through descriptors 3 and 4, which may be taken here.
_AT_3_AND_4 = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""


class OpenPage:
    """An opened page; `logged` are messages of its console and errors, `requested` the addresses that it asked for."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = ""
        self._events: list[Json] = []
        self.logged: list[str] = []
        self.requested: list[str] = []

    def start(self) -> None:
        """Attach to a new tab and listen."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, bypass_policy: bool = False) -> None:
        """Go to a file and wait until it is loaded."""
        self.call("Page.setBypassCSP", enabled=bypass_policy)
        self._events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        deadline = time.monotonic() + _LIMIT_S
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            assert time.monotonic() < deadline, "the page did not load"
            self._take()

    def run(self, expression: str) -> Any:
        """The value of an expression, or of its promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a window of this size, for somebody who likes it light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        number = next(self._numbers)
        message: Json = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _take(self) -> Json:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], _LIMIT_S)
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser is gone"
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: Json = json.loads(first)
        if "method" in message:
            self._hear(message)
        return message

    def _hear(self, event: Json) -> None:
        self._events.append(event)
        parameters = event["params"]
        if event["method"] == "Runtime.consoleAPICalled":
            self.logged.append(str([one.get("value") for one in parameters["args"]]))
        elif event["method"] == "Runtime.exceptionThrown":
            self.logged.append(str(parameters["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded":
            self.logged.append(parameters["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])


@contextmanager
def chromium() -> Iterator[OpenPage]:
    """A browser with one page, which ends with the block."""
    program = shutil.which("chromium")
    assert program is not None
    pipes = [*os.pipe(), *os.pipe()]
    to_browser, write, read, from_browser = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes)
    for end in pipes:
        os.close(end)
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-c",
                _AT_3_AND_4,
                str(to_browser),
                str(from_browser),
                program,
                f"--user-data-dir={profile}",
                *flags,
            ],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            page = OpenPage(write, read)
            page.start()
            yield page
        finally:
            process.kill()
            process.wait()
            os.close(write)
            os.close(read)
