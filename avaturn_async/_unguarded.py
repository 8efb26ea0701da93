"""Functions that make objects of frozen classes, written for each class as attrs and cattrs write theirs.

A frozen class has no way in but ``object.__setattr__`` for each field, and that takes longer than all the
rest of reading a small object. So an object begins as one of a subclass that takes assignments, and becomes
what it is to be when it has everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import attrs

P = ParamSpec("P")
T = TypeVar("T")


def unguarded(cls: type) -> Any:
    """A class for objects without content, which take assignments until ``made.__class__ = cls``."""
    # Without slots of its own it has the same layout, which is the condition for that last step.
    return type(
        cls.__name__,
        (cls,),
        {
            "__slots__": (),
            "__init__": object.__init__,
            "__setattr__": object.__setattr__,
            "__delattr__": object.__delattr__,
        },
    )


def maker(cls: Callable[P, T]) -> Callable[P, T]:
    """``cls(...)`` in a third of its time: takes every field, and checks and converts none."""
    made: Any = cls
    names = [field.name for field in attrs.fields(made)]
    lines = ["made = begin()", *(f"made.{name} = {name}" for name in names)]
    return written(f"*, {', '.join(names)}", [*lines, "made.__class__ = cls", "return made"], made, {})


def written(head: str, lines: Iterable[str], cls: type, scope: dict[str, Any]) -> Callable[..., Any]:
    """The function of these lines, made of the names of our own fields; ``begin()`` and ``cls`` are known."""
    source = "\n    ".join([f"def made_for_{cls.__name__}({head}):", *lines])
    scope |= {"begin": unguarded(cls), "cls": cls}
    exec(compile(source, f"<made for {cls.__name__}>", "exec"), scope)  # noqa: S102 - names of our own fields
    function: Callable[..., Any] = scope[f"made_for_{cls.__name__}"]
    return function
