"""The contract of event stores, as tests that any store can run: see EventStoreContract."""

from __future__ import annotations

import pytest

# pytest shows the values of a failed assertion only in modules that are registered before their import.
pytest.register_assert_rewrite("avaturn_async.testing.store_contract")

from avaturn_async.testing.store_contract import EventStoreContract  # noqa: E402

__all__ = ["EventStoreContract"]
