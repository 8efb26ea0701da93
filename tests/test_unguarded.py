"""What is filled by plain assignments is in the end as frozen as everything else."""

from __future__ import annotations

import copy
import pickle
from typing import Any
from uuid import UUID, uuid4

import pytest
from attrs.exceptions import FrozenInstanceError

from avaturn_async import Avatar, Session
from avaturn_async._ids import uuid_of, uuids_of
from avaturn_async._structure import structure
from avaturn_async._unguarded import maker, unguarded
from avaturn_async.webhooks import AvatarReady, SessionRouter, WebhookRequest
from avaturn_async.webhooks.events import at_position, event_body
from avaturn_async.webhooks.request import RawHeaders
from avaturn_async.webhooks.stores import Arrival, StoredEvent
from avaturn_async.webhooks.stores.memory import MemoryStore

ID = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"


class _Seeing(MemoryStore):
    """Keeps what it is handed, and what it gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: list[Arrival] = []
        self.given: list[StoredEvent] = []

    async def append(self, arrival: Arrival) -> int:
        self.arrivals.append(arrival)
        return await super().append(arrival)

    async def read(self, topic: str, *, after: int = 0) -> list[StoredEvent]:
        self.given += await super().read(topic, after=after)
        return self.given


def _avatar() -> Any:
    made = unguarded(Avatar)()
    made.id = UUID(ID)
    made.status = "ready"
    made.__class__ = Avatar
    return made


def test_it_becomes_what_it_is_to_be() -> None:
    made, other = _avatar(), structure({"id": ID, "status": "ready"}, Avatar)
    assert type(made) is Avatar
    assert made == other
    assert hash(made) == hash(other)
    assert repr(made) == repr(other).replace(repr(other.status), "'ready'")
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - ours
    with pytest.raises(FrozenInstanceError):
        made.id = uuid4()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.id


def test_models_are_what_was_asked_for() -> None:
    row = {"id": ID, "status": "ready"}
    assert [type(each) for each in structure([row, row], tuple[Avatar, ...])] == [Avatar, Avatar]
    assert type(structure({"id": ID, "url": "u"}, Session)) is Session
    assert {type(id_) for id_ in (uuid_of(ID), *uuids_of([ID, ID]))} == {UUID}


def test_ids_stay_as_they_are() -> None:
    for id_ in (uuid_of(ID), *uuids_of([ID])):
        with pytest.raises(TypeError):
            id_.int = 5  # type: ignore[misc]
        assert id_.is_safe is UUID(ID).is_safe


def test_a_request_of_known_parts_is_one_like_any_other() -> None:
    headers = RawHeaders([(b"A", b"1")])
    made = maker(WebhookRequest)(method="POST", headers=headers, body=b"{}", query="a=b", peer="p")
    assert made == WebhookRequest(method="POST", headers=headers, body=b"{}", query="a=b", peer="p")


async def test_what_goes_into_a_store_and_comes_out_is_frozen() -> None:
    store, event = _Seeing(), AvatarReady(avatar_id=UUID(ID), session_id=uuid4())
    async with SessionRouter(store) as router:
        await router.publish(event, key="a", body=event_body(event))
        found = await router.wait_for(AvatarReady, avatar_id=ID, timeout=0)
    [arrival], [given] = store.arrivals, store.given
    body, session_id, subjects = event_body(event), str(event.session_id), (f"avatar:{ID}",)
    assert arrival == Arrival(key="a", body=body, session_id=session_id, subjects=subjects, binds=subjects)
    assert given == StoredEvent(position=1, cursor=1, body=body, session_id=session_id)
    assert found == event
    assert type(at_position(found, 5)) is type(found) is AvatarReady
