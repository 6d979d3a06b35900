"""A small client of Chromium's DevTools protocol: open a page, use it, look at it."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio", "--no-first-run")
ARGUMENTS += ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--disable-dev-shm-usage")
ARGUMENTS += ("--remote-debugging-port=0",)
PATIENCE_S = 120


@contextlib.contextmanager
def open_chromium(*further):
    """Yield a page in a browser of its own; `further` arguments are for the program."""
    with tempfile.TemporaryDirectory(prefix="chromium_", ignore_cleanup_errors=True) as folder:
        arguments = [PROGRAM, *ARGUMENTS, *further, f"--user-data-dir={folder}", "about:blank"]
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_find_address(Path(folder, "DevToolsActivePort")), max_size=None) as socket:
                    yield Chromium(socket)
            finally:
                process.terminate()


def _find_address(port_file):
    end = time.monotonic() + PATIENCE_S
    while not (port_file.exists() and len(port_file.read_text().split()) == 2):
        assert time.monotonic() < end, "Chromium does not start"
        time.sleep(0.05)
    port, path = port_file.read_text().split()
    return f"ws://127.0.0.1:{port}{path}"


class Chromium:
    """One page.

    Attributes:
        complaints: errors and warnings of the page's console, a violated policy among them.
        requests: method and address of what the page sent.
    """

    def __init__(self, socket):
        self.complaints, self.requests = [], []
        self._socket, self._ids, self._page = socket, itertools.count(1), None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Return the result of a method of the protocol."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._page} if self._page else {})))
        while True:
            answer = json.loads(self._socket.recv(PATIENCE_S))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        match event.get("method"), event.get("params"):
            case "Runtime.exceptionThrown", details:
                self.complaints.append(details["exceptionDetails"])
            case "Log.entryAdded", {"entry": {"level": "error" | "warning"} as entry}:
                self.complaints.append(entry["text"])
            case "Network.requestWillBeSent", {"request": request}:
                self.requests.append((request["method"], request["url"]))

    def evaluate(self, expression):
        """Return the value of an expression of JavaScript, awaited."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, is_so, what):
        """Wait until a function, or an expression in the page, is true."""
        end = time.monotonic() + PATIENCE_S
        while not (is_so() if callable(is_so) else self.evaluate(is_so)):
            assert time.monotonic() < end, f"waited for {what}"
            time.sleep(0.05)

    def open(self, address):
        """Go to an address."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'", address)

    def look(self, path, width=900, height=700, *, dark=False, phone=False):
        """Save a picture of the whole page."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(0.4)
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(picture["data"]))

    def choose_file(self, selector, path):
        """Choose a file in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def click(self, selector):
        """Click an element."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key, code=0):
        """Press and release a key."""
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            parameters = {"key": key, "windowsVirtualKeyCode": code, **(text if kind == "keyDown" else {})}
            self.call("Input.dispatchKeyEvent", type=kind, **parameters)
