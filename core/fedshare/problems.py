"""What is wrong with a document that people wrote, in words: where, and for an unknown field which one was meant."""

from __future__ import annotations

from difflib import get_close_matches
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import ValidationError

__all__ = ["problems"]

_MAX_PROBLEMS = 20
_MAX_PLACE = 200
_MAX_KNOWN = 12


def problems(error: ValidationError, model: type[BaseModel], whole: str = "") -> str:
    """Return every problem with its place, the first 20 of them; no value of the document is shown.

    Args:
        error: what the validation of the document as ``model`` raised.
        model: what the document should be.
        whole: what the document is called, where a problem is about all of it and the caller does not say so.
    """
    found = error.errors(include_input=False, include_url=False, include_context=False)
    shown = "; ".join(
        f"{_place(each['loc'], whole)}{_said(each['type'], each['msg'], each['loc'], model)}"
        for each in found[:_MAX_PROBLEMS]
    )
    return shown + (f"; and {len(found) - _MAX_PROBLEMS} more" if len(found) > _MAX_PROBLEMS else "")


def _place(location: Sequence[int | str], whole: str) -> str:
    """Return where a problem is, with a colon; the name of an unknown field is the author's and may hold anything."""
    dotted = ".".join(str(part) for part in location) or whole
    shown = dotted if dotted.isprintable() and len(dotted) <= _MAX_PLACE else ascii(dotted)[:_MAX_PLACE]
    return f"{shown}: " if shown else ""


def _said(kind: str, message: str, location: Sequence[int | str], model: type[BaseModel]) -> str:
    if kind != "extra_forbidden":
        return message.removeprefix("Value error, ")
    known = sorted(_fields(model, list(location[:-1])))
    close = get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"unknown field; did you mean {close[0]}?"
    return "unknown field" + (f"; there are: {', '.join(known)}" if 0 < len(known) <= _MAX_KNOWN else "")


def _fields(annotation: Any, location: list[int | str]) -> set[str]:  # noqa: ANN401 - any annotation of a field
    """Return the fields of what ``annotation`` describes at ``location`` below it, none if it is no model."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return set(annotation.model_fields)
        field = annotation.model_fields.get(str(location[0]))
        return _fields(field.annotation, location[1:]) if field else set()
    if origin in (Annotated, Union, UnionType):
        return set().union(*(_fields(each, location) for each in arguments))
    if origin in (tuple, list, dict) and location:
        # The item of a sequence, or the value of a mapping.
        return _fields(arguments[1 if origin is dict else 0], location[1:])
    return set()
