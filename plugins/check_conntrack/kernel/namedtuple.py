"""Define NamedTuple without importing typing.

To type checkers this NamedTuple is typing's own; at run time it is the small class below, with the
same behaviour in what the suite uses: fields by position or name, defaults, equality, order,
_replace, _fields, and no assignment.

Measured with typing's own instead, processor time of a whole run of check_conntrack_usage (least of
20, interleaved), and of that what `-X importtime` shows for typing alone:

    CPython   this   typing's   import of typing
    3.9.18   48.3 ms   53.4 ms   2.9 ms
    3.11.7   49.7 ms   58.1 ms   3.5 ms
    3.13.0   58.8 ms   66.9 ms   3.5 ms

Neither nagiosplugin nor anything else that a run needs imports typing. The rest of the difference
is the making of its classes.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Fields(type):
        def __new__(cls, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            new = type.__new__(cls, name, bases, {"__slots__": (), **body})
            new._fields, new._field_defaults = fields, defaults
            for at, field in enumerate(fields):
                setattr(new, field, property(itemgetter(at)))
            return new

    class NamedTuple(tuple, metaclass=_Fields):
        """A tuple whose items have names; see typing.NamedTuple."""

        def __new__(cls, *items, **named):
            if named or len(items) != len(cls._fields):
                items = list(items)
                for field in cls._fields[len(items) :]:
                    if field in named:
                        items.append(named.pop(field))
                    elif field in cls._field_defaults:
                        items.append(cls._field_defaults[field])
                    else:
                        raise TypeError(f"{cls.__name__}: no {field} given")
                if named or len(items) != len(cls._fields):
                    raise TypeError(f"{cls.__name__} has no such fields: {items} {sorted(named)}")
            return tuple.__new__(cls, items)

        def __repr__(self):
            pairs = ", ".join(f"{field}={item!r}" for field, item in zip(self._fields, self))
            return f"{type(self).__name__}({pairs})"

        def __getnewargs__(self):
            return tuple(self)

        def _replace(self, **named):
            return type(self)(**{**dict(zip(self._fields, self)), **named})
