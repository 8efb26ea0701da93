"""The contract of event stores, as the author of a store meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_TEST = """
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks import MemoryStore

class TestMyStore(EventStoreContract):
    takeover = 47.0

    async def make_store(self, *, max_events, max_bytes):
        return MemoryStore(ttl=self.ttl, clock=self.clock, max_events=max_events, max_bytes=max_bytes)
"""


def test_a_rule_that_a_store_breaks_is_shown_with_its_values(tmp_path: Path) -> None:
    (tmp_path / "test_my_store.py").write_text(_TEST)
    options = ["-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto", "-k", "after_how_long"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_my_store.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed" in run.stdout
    assert "== 47.0" in run.stdout
