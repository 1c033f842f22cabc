"""A browser of this machine: it opens a page from a server of ours, and the page posts what it finds."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from tledge.core.errors import MissingDependencyError, RemoteError, SettingsError
from tledge.core.temporary import for_child
from tledge.core.types import Json
from tledge.deployment.hosts.host import Access

_ADDRESS = re.compile(r"browser(?P<webgpu>\+webgpu)?(?::(?!//)(?P<command>\S+))?")
_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_VERSION_S = 60.0
_START_S = 60.0
_LOOK_S = 0.25
_STOP_S = 10.0
# No window, no profile of the user's, no calls home, and no thrift with a page that nobody looks at.
_FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-dev-shm-usage",  # containers have little of it
    "--password-store=basic",
)
# Chromium on Linux otherwise keeps WebGPU from processors' own renderers and from some drivers.
_WEBGPU_FLAGS = ("--enable-unsafe-webgpu", "--enable-features=Vulkan")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".png": "image/png",
}
_BODY_BYTES = 1 << 30
# Together these isolate a page: shared memory for threads, and a clock of 5 microseconds.
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}

Files = Callable[[str], bytes | None]
"""From a name below the page's folder to its content; None where there is none."""


@dataclass(frozen=True)
class BrowserHost:
    """A browser built on Chromium on this machine.

    `on` is its address, `browser` or `browser+webgpu`, each also with `:COMMAND`; `program` is what is run.
    """

    on: str
    program: str

    @property
    def provider(self) -> Literal["wasm", "webgpu"]:
        """What computes in the runtimes of its page."""
        return "webgpu" if self.on.startswith("browser+webgpu") else "wasm"

    @property
    def name(self) -> str:
        """The address, as messages and tables name it."""
        return self.on

    @classmethod
    def reach(cls, on: str, access: Access) -> BrowserHost:
        """The browser of an address; without a command the first that is installed.

        Raises:
            SettingsError: another address.
            MissingDependencyError: there is no such browser.
        """
        del access
        found = _ADDRESS.fullmatch(on)
        if found is None:
            raise SettingsError(f"expected --on as browser[+webgpu][:COMMAND], but got {on!r}; change it")
        wanted = (found["command"],) if found["command"] else _COMMANDS
        program = next((path for path in map(shutil.which, wanted) if path), None)
        if program is None:
            raise MissingDependencyError(
                f"expected a browser ({', '.join(wanted)}), but there is none; install it (Debian: `apt-get install "
                "chromium`), or name another built on Chromium with --on browser:COMMAND"
            )
        return cls(on, program)

    def version(self) -> tuple[str, str]:
        """What the browser calls itself, and its version.

        Raises:
            RemoteError: it does not start.
        """
        try:
            done = subprocess.run(
                [self.program, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=False
            )
            said = re.match(r"(\D*?)\s+([0-9][0-9.]*)", done.stdout.strip())
        except (OSError, subprocess.TimeoutExpired):
            said = None
        if said is None:
            raise RemoteError(
                f"expected a version of {self.program}, but it tells none; try `{self.program} --version`"
            )
        return said[1].lower(), said[2]


class Page:
    """A page while it is open."""

    def __init__(self, host: BrowserHost, server: _Server, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._host, self._server, self._process, self._log = host, server, process, log

    def pids(self) -> list[int]:
        """Processes of the browser."""
        import psutil

        with suppress(psutil.NoSuchProcess):
            return [self._process.pid, *(p.pid for p in psutil.Process(self._process.pid).children(recursive=True))]
        return []

    def messages(self, limit_s: float) -> Iterator[Json]:
        """What the page tells, one JSON object after the other, until it has told a `result`.

        Raises:
            RemoteError: the page tells an `error`, is gone or takes longer than `limit_s` seconds; the browser ends.
        """
        deadline = time.monotonic() + limit_s
        name = self._host.name
        while True:
            try:
                message = self._server.told.get(timeout=_LOOK_S)
            except queue.Empty:
                message = None
            if message is not None:
                if "error" in message:
                    raise RemoteError(f"expected {name} to run every file, but {message['error']}; leave that file out")
                if "gone" in message:
                    raise RemoteError(f"expected the page in {name} to stay, but it crashed; check free memory")
                yield message
                if "result" in message:
                    return
            elif (code := self._process.poll()) is not None:
                raise RemoteError(f"expected {name} to stay open, but it ended with code {code}: {self._last_words()}")
            elif time.monotonic() > deadline:
                raise RemoteError(
                    f"expected {name} to be done within {limit_s:g} s, but it was not; allow more with --time-limit, "
                    "or ask for less"
                )
            elif not self._server.was_asked and time.monotonic() > deadline - limit_s + _START_S:
                raise RemoteError(f"expected {name} to open a page within {_START_S:g} s, but: {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").splitlines()
        lines = [line.strip() for line in said if line.strip() and "dbus" not in line]  # containers have no D-Bus
        return lines[-1][-200:] if lines else "it said nothing"


@contextmanager
def open_page(host: BrowserHost, files: Files, address: str) -> Iterator[Page]:
    """Open a page in a browser of its own, which ends with the block.

    Args:
        host: the browser.
        files: what the server has.
        address: name of the page, with its query.
    """
    server = _Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/{server.secret}/{address}"
    # Chromium refuses its sandbox to root; the page is ours.
    flags = [
        *_FLAGS,
        *(_WEBGPU_FLAGS if host.provider == "webgpu" else ()),
        *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]
    with tempfile.TemporaryDirectory(prefix="tledge-", ignore_cleanup_errors=True) as folder:
        log = (Path(folder) / "log").open("w+b")
        process = subprocess.Popen(
            [host.program, *flags, f"--user-data-dir={folder}/profile", url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=for_child(),
        )
        page = Page(host, server, process, log)
        try:
            yield page
        finally:
            _end(process, page.pids())
            server.shutdown()
            server.server_close()
            log.close()


def _end(process: subprocess.Popen[bytes], pids: list[int]) -> None:
    import psutil

    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)


class _Server(ThreadingHTTPServer):
    """Files for one page on the loopback, below a folder that nobody else can guess; `told` is what the page posts."""

    daemon_threads = True

    def __init__(self, files: Files) -> None:
        self.files, self.secret = files, secrets.token_urlsafe(16)
        self.told: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self.was_asked = False
        super().__init__(("127.0.0.1", 0), partial(_Handler, self))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that goes away breaks connections: no traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, host: _Server, *arguments: Any) -> None:
        self._host = host
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._host.was_asked = True
        name = self._name()
        if name == "alive":
            self._answer(200, b"", "text/plain", length=None)
            self.connection.recv(1)  # until the browser closes the connection, which it does when the page dies
            self._host.told.put({"gone": True})
            self.close_connection = True
            return
        content = None if name is None else self._host.files(name)
        if content is None:
            self._answer(404, b"", "text/plain")
        else:
            self._answer(200, content, _TYPES.get(PurePosixPath(str(name)).suffix, "application/octet-stream"))

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self._name() != "told" or not 0 < length < _BODY_BYTES:
            self.close_connection = True
            self._answer(404, b"", "text/plain")
            return
        message = json.loads(self.rfile.read(length))
        self._answer(200, b"", "text/plain")
        self._host.told.put(message)

    def log_message(self, *_: Any) -> None:
        """Requests are not worth a line each."""

    def _name(self) -> str | None:
        path, prefix = self.path.partition("?")[0], f"/{self._host.secret}/"
        return path.removeprefix(prefix) if path.startswith(prefix) else None

    def _answer(self, code: int, content: bytes, kind: str, length: int | None = 0) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(content)))
        for header, value in ISOLATION.items():
            self.send_header(header, value)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
