# What the suite uses of nagiosplugin 1.3.2 to 1.4.0, which ships no types.
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from .state import Critical as Critical
from .state import Ok as Ok
from .state import ServiceState
from .state import Unknown as Unknown
from .state import Warn as Warn

class CheckError(RuntimeError): ...

class Range(tuple[bool, float, float]):
    def __new__(cls, spec: str | Range = "") -> Range: ...
    invert: bool
    start: float
    end: float
    def match(self, value: float) -> bool: ...

class Metric:
    name: str
    value: Any
    uom: str | None
    min: float | None
    max: float | None
    context: str
    contextobj: Any
    resource: Resource
    def __init__(
        self,
        name: str,
        value: Any,
        uom: str | None = None,
        min: float | None = None,
        max: float | None = None,
        context: str | None = None,
        contextobj: Context | None = None,
        resource: Resource | None = None,
    ) -> None: ...

class Performance:
    def __init__(
        self,
        label: str,
        value: Any,
        uom: str | None = "",
        warn: Any = "",
        crit: Any = "",
        min: Any = "",
        max: Any = "",
    ) -> None: ...

class Result:
    state: ServiceState
    hint: str | None
    metric: Metric
    def __init__(
        self, state: ServiceState, hint: str | None = None, metric: Metric | None = None
    ) -> None: ...

class Results:
    results: list[Result]
    def __init__(self, *results: Result) -> None: ...
    def __iter__(self) -> Iterator[Result]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, item: str) -> Result: ...
    def add(self, *results: Result) -> None: ...
    def __contains__(self, name: str) -> bool: ...
    @property
    def most_significant_state(self) -> ServiceState: ...

class Resource:
    @property
    def name(self) -> str: ...
    def probe(self) -> Iterable[Metric]: ...

class Context:
    name: str
    def __init__(
        self,
        name: str,
        fmt_metric: str | Callable[[Metric, Context], str] | None = None,
        result_cls: type[Result] = ...,
    ) -> None: ...
    def evaluate(self, metric: Metric, resource: Resource) -> Result: ...
    def performance(self, metric: Metric, resource: Resource) -> Performance | None: ...

class Summary:
    def ok(self, results: Results) -> str: ...
    def problem(self, results: Results) -> str: ...
    def verbose(self, results: Results) -> str | list[str]: ...
    def empty(self) -> str: ...

class Check:
    name: str
    results: Results
    perfdata: list[str]
    def __init__(self, *objects: Resource | Context | Summary | Results) -> None: ...
    def __call__(self) -> None: ...
    @property
    def state(self) -> ServiceState: ...
    @property
    def summary_str(self) -> str: ...
    @property
    def verbose_str(self) -> str | list[str]: ...
    @property
    def exitcode(self) -> int: ...

__version__: str
