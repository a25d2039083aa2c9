"""A real browser, driven over its own pipe (Chrome DevTools Protocol); it reaches 127.0.0.1 only."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--remote-debugging-pipe", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
TIMEOUT_S = 30.0


def find() -> str:
    """Return the browser's path, or say how to get one."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise RuntimeError(
            f"needed one of {', '.join(NAMES)} on PATH for the report's browser tests; found none; install it: "
            "apt-get install --no-install-recommends chromium"
        )
    return path


class Browser:
    """One headless browser with one page; ``console`` and ``requests`` collect what the page does."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True) -> None:
        self.console: list[str] = []
        """What was logged as a warning or an error, exceptions and refused loads included."""
        self.requests: list[str] = []
        """The address of everything that the page asked for."""
        self._folder = tempfile.TemporaryDirectory(prefix="testbed-browser-", ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def join_pipe() -> None:  # the browser reads commands from descriptor 3 and answers on 4
            a, b = os.dup(to_read), os.dup(to_write)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self._process = subprocess.Popen(
            [find(), *FLAGS, f"--user-data-dir={self._folder.name}/profile", "about:blank"],
            env=os.environ | {"TMPDIR": self._folder.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=join_pipe,  # noqa: PLW1509 - nothing else places descriptors at given numbers
            close_fds=False,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._scripts = scripts
        self._loaded = False
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._session = None
        try:
            self.call("Browser.close")  # it waits for its own processes, which write into the folder until they end
            self._process.wait(10)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(10)
        os.close(self._write)
        os.close(self._read)
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> Any:
        """Send one command and return its result; events that come in between are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, page: Path) -> None:
        """Open a local file and wait until it is loaded and, unless scripts are off, its pictures are drawn."""
        self.go(page.as_uri())
        if self._scripts:
            self.wait("document.documentElement.dataset.drawn")

    def go(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._note(self._next())

    def wait(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        attempt = f"let ok = false; try {{ ok = !!({expression}); }} catch {{}}"
        look = f"{attempt} ok ? done(true) : requestAnimationFrame(look);"
        limit = f"setTimeout(() => done(false), {TIMEOUT_S * 1e3});"
        script = f"new Promise(done => {{ {limit} const look = () => {{ {look} }}; look(); }})"
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if answer["result"].get("value") is not True:
            raise TimeoutError(f"{expression} is not true after {TIMEOUT_S:g} s; console: {self.console}")

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write the page as PNG: all of it, or what fits the window."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole=whole))["data"]
        path.write_bytes(base64.b64decode(data))

    def _clip(self, *, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError(f"the browser ended with status {self._process.wait(10)}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"].get("exception", params).get("description")))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.console.append(params["entry"]["text"])
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


if __name__ == "__main__":  # python -m tests.integration.browser PAGE PICTURE: how the picture of the README is made
    with Browser(width=1000, height=2560) as browser:
        browser.open(Path(sys.argv[1]).absolute())
        browser.picture(Path(sys.argv[2]), whole=False)
