"""Convert NamedTuples to JSON and back, checked against their annotations.

A record becomes the list of its fields; trailing fields that have their default are left out.
Annotations may use int, float, str, bool, None, `X | None`, tuple[X, ...], tuple[X, Y], an Enum
and another NamedTuple. Files of the state directory may be damaged: decode() returns None for
whatever encode() has not written.
"""

from __future__ import annotations

import sys
from enum import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    Record = TypeVar("Record")
    Decoder = Callable[[Any], Any]

LARGEST_INT = 1 << 63
LARGEST_FLOAT = 1e15
"""Larger numbers were never written; NaN is valid for Python's json and compares with nothing."""

_decoders: dict[type, Decoder] = {}


def encode(value: Any) -> Any:
    """Return a NamedTuple, a tuple or a plain value as json.dumps takes it."""
    if isinstance(value, Enum):
        return value.value
    if not isinstance(value, tuple):
        return value
    items = [encode(item) if isinstance(item, (tuple, Enum)) else item for item in value]
    defaults = getattr(value, "_field_defaults", None)
    if defaults:
        names = value._fields  # type: ignore[attr-defined]
        while items and names[len(items) - 1] in defaults:
            if value[len(items) - 1] != defaults[names[len(items) - 1]]:
                break
            items.pop()
    return items


def decode(kind: type[Record], plain: object) -> Record | None:
    """Return the record that encode() has written; None for anything else."""
    try:
        record: Record = _record(kind)(plain)
    except (ValueError, RecursionError):
        return None
    return record


def decode_each(kind: type[Record], plain: object) -> dict[str, Record]:
    """Return the records of a JSON object by name, without those that are damaged."""
    if not isinstance(plain, dict):
        return {}
    records = {name: decode(kind, value) for name, value in plain.items()}
    return {name: record for name, record in records.items() if record is not None}


def _record(kind: type) -> Decoder:
    """Return the decoder of a NamedTuple; made once a run."""
    if kind in _decoders:
        return _decoders[kind]
    scope = vars(sys.modules[kind.__module__])
    # typing.NamedTuple keeps its annotations as ForwardRef.
    notes: list[Any] = list(kind.__annotations__.values())
    fields = [_decoder(getattr(note, "__forward_arg__", note), scope) for note in notes]
    least = len(fields) - len(kind._field_defaults)  # type: ignore[attr-defined]

    def decoded(plain: Any) -> Any:
        if type(plain) is not list or not least <= len(plain) <= len(fields):
            raise ValueError
        return kind(*[field(item) for field, item in zip(fields, plain)])

    _decoders[kind] = decoded
    return decoded


def _decoder(note: str, scope: Mapping[str, Any]) -> Decoder:
    """Return the decoder of an annotation whose names are found in `scope`."""
    choices = _split(note, "|")
    if len(choices) > 1:
        (choice,) = (choice for choice in choices if choice != "None")
        inner = _decoder(choice, scope)
        return lambda plain: None if plain is None else inner(plain)
    if note in _PLAIN:
        return _PLAIN[note]
    if note.startswith("tuple["):
        return _tuple([item for item in _split(note[6:-1], ",") if item], scope)
    first, *rest = note.split(".")
    kind = scope[first]
    for name in rest:
        kind = getattr(kind, name)
    return kind if issubclass(kind, Enum) else _record(kind)


def _tuple(notes: list[str], scope: Mapping[str, Any]) -> Decoder:
    """Return the decoder of tuple[X, ...] or tuple[X, Y]."""
    items = [_decoder(note, scope) for note in notes if note != "..."]

    def decoded(plain: Any) -> Any:
        if type(plain) is not list or ("..." not in notes and len(plain) != len(items)):
            raise ValueError
        if "..." in notes:
            return tuple([items[0](item) for item in plain])
        return tuple([item(each) for item, each in zip(items, plain)])

    return decoded


def _split(note: str, mark: str) -> list[str]:
    """Split an annotation at a mark that stands in no brackets."""
    parts, depth = [""], 0
    for character in note:
        depth += (character == "[") - (character == "]")
        if character == mark and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _int(plain: Any) -> int:
    if type(plain) is int and 0 <= plain < LARGEST_INT:
        return plain
    raise ValueError


def _float(plain: Any) -> float:
    if type(plain) in (int, float) and -LARGEST_FLOAT < plain < LARGEST_FLOAT:
        return float(plain)
    raise ValueError


def _str(plain: Any) -> str:
    if type(plain) is str:
        return plain
    raise ValueError


def _bool(plain: Any) -> bool:
    if type(plain) is bool:
        return plain
    raise ValueError


_PLAIN: dict[str, Decoder] = {"int": _int, "float": _float, "str": _str, "bool": _bool}
