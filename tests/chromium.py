"""A headless Chromium, driven over the DevTools protocol: just what the tests of pages need."""

from __future__ import annotations

import asyncio
import base64
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
# Resolves with the element once there is one: the page says when it changed, so nobody waits by the clock.
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
    """Where the browser is, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def running() -> Iterator[str]:
    """A browser that runs; the address of its DevTools."""
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
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._contexts: dict[int, str] = {}
        self._happened = asyncio.Condition()
        self._loads = 0
        self.problems: list[str] = []

    async def listen(self) -> None:
        """Take what the browser says; runs as long as the tab is open."""
        async for message in self._socket:
            said: dict[str, Any] = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
                continue
            values = said["params"]
            async with self._happened:
                if said["method"] == "Runtime.executionContextCreated":
                    self._contexts[values["context"]["id"]] = values["context"]["origin"]
                elif said["method"] == "Runtime.executionContextDestroyed":
                    self._contexts.pop(values["executionContextId"], None)
                elif said["method"] == "Runtime.executionContextsCleared":
                    self._contexts.clear()
                elif said["method"] == "Runtime.exceptionThrown":
                    self.problems.append(str(values["exceptionDetails"]))
                elif said["method"] == "Page.loadEventFired":
                    self._loads += 1
                self._happened.notify_all()

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(60):  # a page that hangs is a test that fails
            said = await answer
        if "error" in said:
            raise AssertionError(f"{method}: {said['error']}")
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        loads = self._loads
        await self.do("Page.navigate", url=url)
        async with self._happened:
            await self._happened.wait_for(lambda: self._loads > loads)

    async def run(self, script: str, *, origin: str | None = None, by_value: bool = True) -> Any:
        """The value of an expression, or what a promise comes to, in the newest frame of an origin."""
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
        """Click on an element as soon as there is one that can be clicked on."""
        await self.run(f"{_element(selector)}.then(found => {{ found.click(); }})", origin=origin)

    async def text(self, selector: str, *, origin: str | None = None) -> str:
        """The text of an element as soon as there is one."""
        return str(await self.run(f"{_element(selector)}.then(found => found.textContent)", origin=origin))

    async def choose_file(self, selector: str, path: Path, *, origin: str | None = None) -> None:
        """Choose a file in a file input."""
        found = await self.run(_element(selector), origin=origin, by_value=False)
        await self.do("DOM.setFileInputFiles", files=[str(path)], objectId=found["objectId"])

    async def screenshot(self) -> bytes:
        """A picture of the page, as PNG, to look at."""
        taken = await self.do("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])


def _element(selector: str) -> str:
    return _ELEMENT % json.dumps(selector)


@asynccontextmanager
async def new_tab(devtools: str) -> AsyncIterator[Tab]:
    """An empty tab of a running browser."""
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
