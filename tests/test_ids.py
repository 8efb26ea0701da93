"""Ids: many at once are read as each by itself is, and their text is what Python writes."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avaturn_async import Avatar, AvaturnDecodeError
from avaturn_async._ids import id_text, text_of, uuid_of, uuids_of
from avaturn_async._structure import structure

ID = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
ANOTHER = "ffffffff-ffff-4fff-bfff-ffffffffffff"


def each_by_itself(texts: list[Any]) -> list[UUID] | None:
    try:
        return [uuid_of(text) for text in texts]
    except ValueError:
        return None


def at_once(texts: list[Any]) -> list[UUID] | None:
    try:
        return uuids_of(texts)
    except (ValueError, TypeError):
        return None


@given(st.uuids())
def test_the_text_of_an_id_is_the_one_that_python_writes(id_: UUID) -> None:
    assert text_of(id_) == str(id_)


@given(st.lists(st.uuids().map(str) | st.uuids().map(lambda id_: str(id_).upper())))
def test_many_ids_are_those_that_python_reads(texts: list[str]) -> None:
    read = uuids_of(texts)
    assert read == [UUID(text) for text in texts]
    assert all(type(id_) is UUID and id_.is_safe is uuid4().is_safe for id_ in read)


def check_for_url(text: str) -> None:
    try:
        expected = str(uuid_of(text))
    except ValueError as error:
        with pytest.raises(ValueError, match=f"^avatar_id is {re.escape(str(error))}$"):
            id_text(text)
    else:
        assert id_text(text) == id_text(UUID(text)) == expected


nearly = st.text("0aF- _\n\u0661", min_size=35, max_size=37) | st.from_regex(
    r"[0f]{7,9}(-[0f]{3,5}){3}-[0f]{11,13}"
)


@given(st.lists(st.uuids().map(str) | nearly | st.none() | st.integers() | st.lists(st.just(ID)), max_size=4))
def test_many_ids_are_taken_just_when_each_of_them_is(texts: list[Any]) -> None:
    assert at_once(texts) == each_by_itself(texts)


@given(st.uuids().map(str) | st.uuids().map(lambda id_: str(id_).upper()) | nearly)
def test_an_id_for_a_url_is_taken_just_when_it_is_one(text: str) -> None:
    check_for_url(text)


@pytest.mark.parametrize("place", range(37))
def test_a_wrong_letter_in_an_id_is_never_put_into_a_url(place: int) -> None:
    for letter in "0gG-_+ \n\u0661":
        check_for_url(ID[:place] + letter + ID[place + 1 :])
        check_for_url(ID[:place] + letter + ID[place:])


@pytest.mark.parametrize(
    "texts",
    [
        # What one lacks the other has too much of.
        [ID[:-1], "0" + ANOTHER],
        [ID + "-", ANOTHER[1:]],
        [ID + "0", ANOTHER[1:]],
        [ID[:8] + ID[9:] + "-", ANOTHER],
        [ID[:-1] + "-", ANOTHER],
        [ID[:-1] + " ", ANOTHER],
        [ID[:-2] + "  ", ANOTHER],
        [ID[:7] + "-" + ID[7] + ID[9:], ANOTHER],
        [ID + ANOTHER],
        [ID + ANOTHER, ""],
        [ID.replace("-", ""), ANOTHER.replace("-", "")],
        [ID, None],
        [ID, [ANOTHER]],
        [ID, list(ANOTHER)],
        [ID, 36],
    ],
)
def test_one_wrong_id_is_not_hidden_by_its_neighbours(texts: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        uuids_of(texts)
    rows = [{"id": text, "status": "ready"} for text in texts]
    with pytest.raises(AvaturnDecodeError, match="expected UUID at"):
        structure(rows, tuple[Avatar, ...])
