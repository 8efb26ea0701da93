"""A headless Chromium, driven over the DevTools protocol, for tests of pages."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--remote-debugging-port=0",
)
# Resolves with the element once it exists; a MutationObserver reports changes, so no test waits by the clock.
_ELEMENT = """new Promise(resolve => {
  const look = () => {
    const found = document.querySelector(%s);
    if (found) { observer.disconnect(); resolve(found); }
    return found;
  };
  const observer = new MutationObserver(look);
  observer.observe(document, { subtree: true, childList: true, attributes: true });
  look();
})"""


def binary() -> str | None:
    """Return the path of the browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def running() -> Iterator[str]:
    """Run a browser, and yield the address of its DevTools."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [binary() or "", *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                for line in process.stderr:
                    if "DevTools listening on" in line:
                        yield line.split("ws://")[1].split("/")[0]
                        break
            finally:
                process.kill()
                process.stderr.close()


class Tab:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = count(1)
        self._results: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._contexts: dict[int, str] = {}
        self._happened = asyncio.Condition()
        self._loads = 0
        self.problems: list[str] = []

    async def listen(self) -> None:
        """Receive messages of the browser as long as the tab is open."""
        async for message in self._socket:
            received: dict[str, Any] = json.loads(message.data)
            if "id" in received:
                self._results.pop(received["id"]).set_result(received)
                continue
            values = received["params"]
            async with self._happened:
                if received["method"] == "Runtime.executionContextCreated":
                    self._contexts[values["context"]["id"]] = values["context"]["origin"]
                elif received["method"] == "Runtime.executionContextDestroyed":
                    self._contexts.pop(values["executionContextId"], None)
                elif received["method"] == "Runtime.executionContextsCleared":
                    self._contexts.clear()
                elif received["method"] == "Runtime.exceptionThrown":
                    self.problems.append(str(values["exceptionDetails"]))
                elif received["method"] == "Page.loadEventFired":
                    self._loads += 1
                self._happened.notify_all()

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        number = next(self._ids)
        future = self._results[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(60):  # a page that hangs is a test that fails
            received = await future
        if "error" in received:
            raise AssertionError(f"{method}: {received['error']}")
        result: dict[str, Any] = received["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        loads = self._loads
        await self.do("Page.navigate", url=url)
        async with self._happened:
            await self._happened.wait_for(lambda: self._loads > loads)

    async def run(self, script: str, *, origin: str | None = None, by_value: bool = True) -> Any:
        """Return the value of an expression, or of its promise, in the newest frame of an origin."""
        target: dict[str, Any] = {}
        if origin is not None:
            async with self._happened:
                await self._happened.wait_for(lambda: origin in self._contexts.values())
                target["contextId"] = max(key for key, at in self._contexts.items() if at == origin)
        result = await self.do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=by_value, **target
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value") if by_value else result["result"]

    async def click(self, selector: str, *, origin: str | None = None) -> None:
        """Click on an element as soon as it exists."""
        await self.run(f"{_element(selector)}.then(found => {{ found.click(); }})", origin=origin)

    async def text(self, selector: str, *, origin: str | None = None) -> str:
        """Return the text of an element as soon as it exists."""
        return str(await self.run(f"{_element(selector)}.then(found => found.textContent)", origin=origin))

    async def choose_file(self, selector: str, path: Path, *, origin: str | None = None) -> None:
        """Choose a file in a file input."""
        found = await self.run(_element(selector), origin=origin, by_value=False)
        await self.do("DOM.setFileInputFiles", files=[str(path)], objectId=found["objectId"])


def _element(selector: str) -> str:
    return _ELEMENT % json.dumps(selector)


@asynccontextmanager
async def new_tab(devtools: str) -> AsyncIterator[Tab]:
    """Yield an empty tab of a running browser."""
    async with aiohttp.ClientSession() as http:
        async with http.put(f"http://{devtools}/json/new?about:blank") as response:
            opened = await response.json()
        async with http.ws_connect(opened["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            await tab.do("Runtime.enable")
            await tab.do("Page.enable")
            yield tab
            await tab.do("Page.close")
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
