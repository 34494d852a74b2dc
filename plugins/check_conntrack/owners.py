"""Read the owners of addresses and namespaces in a run: with the reader, or what is left without.

A verdict never depends on this: what cannot be had is one sentence.
"""

from __future__ import annotations

import errno
import os

from .kernel import KernelError
from .kernel.limits import own_inode
from .kernel.owners import Ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session


def read_owners(session: Session) -> tuple[Ownership, str]:
    """Return the owners that can be had, and why others are missing; empty where none are.

    Without the reader they are the addresses of the check's own namespace.
    """
    from .kernel import owner_request
    from .kernel.namespaces import names

    try:
        own = own_inode()
    except KernelError as error:
        return Ownership(), str(error)
    problems: list[str] = []
    forbidden = session.forbidden
    # A reader that gives no names is no reason to advise more privileges for the figures.
    try:
        with session.stage.stoppable(problems.append):
            if not session.may_ask:
                problems.append(_words(errno.EACCES))
            else:
                frames = session.ask(owner_request.request())
                session.stage("naming the owners of addresses")
                owners = owner_request.read_answer(frames, own, names())
                return owners, _words(owners.missing)
    except KernelError as error:
        problems.append(str(error))
    finally:
        session.forbidden = forbidden
    return owner_request.read_own(own), problems[0]


def _words(code: int) -> str:
    """Return why owners are missing, from an errno; empty for 0."""
    if code in (errno.EPERM, errno.EACCES):
        return "permission denied (CAP_SYS_ADMIN and CAP_SYS_PTRACE, see --sudo)"
    if code == errno.ETIME:
        return "timed out, there are very many namespaces"
    return os.strerror(code) if code else ""
