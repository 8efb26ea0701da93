"""The project's English: banned words in docstrings, comments, strings and identifiers of the covered files.

Docstrings and comments name their subject and use the field's standard terms. Extend ``COVERED`` when a file's words
are mended.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]

COVERED = (
    "avaturn_async/*.py",
    "avaturn_async/cli",
    "avaturn_async/transfers",
    "avaturn_async/testing",
    "avaturn_async/webhooks",
    "examples",
    "README.md",
    "CHANGELOG.md",
)

SUBJECT = "name the subject: a class, a parameter, the server, the caller"

# In prose (docstrings, comments, other strings, Markdown): a pattern and its remedy.
BANNED_IN_PROSE = {
    r"\b[Ww]hoever\b": SUBJECT,
    r"\b[Nn]obody\b": SUBJECT,
    r"\b[Ss]omebody\b": SUBJECT,
    r"\b[Ee]verybody\b": SUBJECT,
    r"\b[Oo]thers\b": SUBJECT,
    r"\bis none\b": "say what is invalid",
    r"\bmakes? no sense\b": "say what is invalid",
    r"\bpast (?:its|their) time\b": "expired",
    r"\b[Tt]wice is fine\b": "idempotent, or: calling it again does nothing",
    r"\bis away\b": "unavailable",
    r"\b(?:is|are) over\b": "expired, ended or closed",
    r"\b[Tt]akeover\b": "lease",
    r"\b[Hh]ints?\b": "notification",
}

# In identifiers, of which each part between underscores counts.
BANNED_IN_NAMES = {
    r"(?:\A|_)(?:MOST|LONGEST|DEEPEST)_": "MAX_",
    r"(?i)(?:\A|_)takeover(?:_|\Z)": "lease",
    r"(?i)(?:\A|_)hints?(?:_|\Z)": "notification",
    r"(?i)(?:\A|_)(?:whoever|nobody|somebody|everybody)(?:_|\Z)": SUBJECT,
}

# Names of the standard library.
_ALLOWED_NAMES = {"get_type_hints"}

_PROSE_TOKENS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


@frozen
class Finding:
    """A banned word at a line of a file."""

    line: int
    word: str
    remedy: str


def find_in_text(text: str, banned: dict[str, str], first_line: int) -> Iterator[Finding]:
    """Yield the banned words of a text that begins at ``first_line``; a phrase may span two lines."""
    for pattern, remedy in banned.items():
        for match in re.finditer(pattern.replace(" ", r"[\s#]+"), text):
            line = first_line + text.count("\n", 0, match.start())
            yield Finding(line, " ".join(match[0].split()), remedy)


def find_in_python(source: str) -> Iterator[Finding]:
    """Yield the banned words in comments, strings and identifiers of a module."""
    comments: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != start + len(comments):
                yield from find_in_text("\n".join(comments), BANNED_IN_PROSE, start)
                comments, start = [], token.start[0]
            comments.append(token.string)
        elif token.type in _PROSE_TOKENS:
            yield from find_in_text(token.string, BANNED_IN_PROSE, token.start[0])
        elif token.type == tokenize.NAME and token.string not in _ALLOWED_NAMES:
            yield from find_in_text(token.string, BANNED_IN_NAMES, token.start[0])
    yield from find_in_text("\n".join(comments), BANNED_IN_PROSE, start)


def find_in_file(path: Path) -> list[Finding]:
    """Return the banned words of a Python or Markdown file, in order."""
    text = path.read_text(encoding="utf-8")
    found = find_in_python(text) if path.suffix == ".py" else find_in_text(text, BANNED_IN_PROSE, 1)
    return sorted(found, key=lambda finding: (finding.line, finding.word))


def get_covered_files() -> list[str]:
    """Return the paths of the covered files, relative to the project."""
    files: set[Path] = set()
    for pattern in COVERED:
        for path in ROOT.glob(pattern):
            files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


@pytest.mark.parametrize("name", get_covered_files())
def test_covered_file_has_no_banned_word(name: str) -> None:
    found = [f"{name}:{f.line}: {f.word!r}: {f.remedy}" for f in find_in_file(ROOT / name)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "line", "word"),
    [
        ('"""Bring it to whoever waits."""', 1, "whoever"),
        ("a = 1\n# Nobody\n", 2, "Nobody"),
        ("# The value makes\n# no sense.\n", 1, "makes # no sense"),
        ("raise KeyError(f'{a} is away')", 1, "is away"),
        ("MOST_BYTES = 1", 1, "MOST_"),
        ("def wait(takeover): ...", 1, "takeover"),
        ("self._hints = {}", 1, "_hints"),
        ('"""Store.\n\nThe lease is\nover.\n"""', 3, "is over"),
    ],
)
def test_banned_word_is_found_with_its_line(source: str, line: int, word: str) -> None:
    found = list(find_in_python(source))
    assert [(f.line, f.word) for f in found] == [(line, word)]


@pytest.mark.parametrize(
    "source", ["from typing import get_type_hints", "x is None", "# others_ and MOSTLY", "other = 1"]
)
def test_plain_code_passes(source: str) -> None:
    assert not list(find_in_python(source))
