"""Call namespaces by the pod, container or machine that owns them, else by their names."""

from __future__ import annotations

from .. import render, reports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..kernel.owners import Owner
    from ..session import Session
    from .evidence import Evidence
    from .namespace_reports import NamespaceReport

WORD = "namespace "


class Names:
    """The names of a run's namespaces: the owners are asked for once, when there is a problem."""

    def __init__(self, run: Session) -> None:
        self._owners = reports.Owners(run)
        self._asked = False

    @property
    def problem(self) -> str:
        """Return why owners are missing; empty where they are not, or nobody has asked."""
        return self._owners.problem

    def named(self, evidence: Evidence) -> Evidence:
        """Return the evidence with the owners of its namespaces."""
        self._asked = True
        return evidence._replace(reports=tuple(self._owners.named(evidence.reports)))

    def of(self, inode: int, evidence: Evidence, *, gone: bool) -> str:
        """Return what a namespace is called that a message names; gone: it does not exist now."""
        for report in evidence.reports:
            if not gone and report.inode == inode and not report.prefix and not report.name:
                return "this namespace"
        owner = None if gone else self._owner(inode)
        if owner:
            from ..advice import owner_words

            return owner_words.short(owner)
        return WORD + self._name(inode, evidence, gone=gone)

    def in_table(self, inode: int, evidence: Evidence, *, gone: bool) -> str:
        """Return the same for a table, with its name and all that is known of its owner."""
        owner = None if gone else self._owner(inode)
        if owner:
            from ..advice import owner_words

            name = render.clean(self._name(inode, evidence, gone=gone))
            return f"{name} ({owner_words.full(owner)})"
        name = self.of(inode, evidence, gone=gone).removeprefix(WORD)
        return render.clean(name) + (" (gone)" if gone else "")

    def _name(self, inode: int, evidence: Evidence, *, gone: bool) -> str:
        name = "" if gone else evidence.names.get(inode)
        return name or f"net:[{inode}]"

    def _owner(self, inode: int) -> Owner | None:
        """Return the owner that control groups prove; None before anybody has asked for owners."""
        if not self._asked:
            return None
        from ..kernel.owners import STRONG

        owner = self._owners.read().namespaces.get(inode)
        return owner if owner and owner.kind in STRONG else None


def called(report: NamespaceReport) -> str:
    """Return what a namespace is called in a sentence; a long owner is cut."""
    whole, short = reports.namespace_words(report.namespace)
    return (short if report.namespace.owner else whole).strip() or "this namespace"


def listed(there: Sequence[NamespaceReport]) -> str:
    """Return namespaces in a sentence: this one, then owners, then names."""
    words = [called(report) for report in there]
    names = [each[len(WORD) :] for each in words if each.startswith(WORD)]
    others = [each for each in words if not each.startswith(WORD)]
    others.sort(key="this namespace".__ne__)
    named = f"{'namespaces' if names[1:] else 'namespace'} {', '.join(names)}" if names else ""
    return " and ".join(filter(None, [*others, named]))
