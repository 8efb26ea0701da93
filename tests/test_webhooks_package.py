"""avaturn_async.webhooks: its names, of which the costly ones are only loaded when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from avaturn_async import webhooks


def test_names_are_sorted_and_listed() -> None:
    assert sorted(webhooks.__all__) == webhooks.__all__
    assert set(webhooks.__all__) <= set(dir(webhooks))


@pytest.mark.parametrize("name", ["SQLiteStore", "RedisStore"])
def test_the_stores_that_need_something_are_there_when_they_are_asked_for(name: str) -> None:
    assert getattr(webhooks, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Hush'"):
        _ = webhooks.Hush


def test_importing_the_webhooks_loads_no_store_but_the_one_in_memory_and_no_web_server() -> None:
    code = (
        "import sys, avaturn_async.webhooks;"
        "print({'sqlite3', 'redis', 'aiohttp.web', 'avaturn_async.webhooks._aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
