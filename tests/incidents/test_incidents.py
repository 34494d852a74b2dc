"""Stage every incident: the first line names it, and the advice ends it and harms nobody."""

from __future__ import annotations

import pytest

from incidents import floods, healthy, history, leaks, nat, nodes
from incidents.lab import INCIDENTS, Row

MODULES = floods, leaks, nat, nodes, history, healthy  # importing them adds their incidents


def _parameters():
    for one in INCIDENTS:
        marks = [pytest.mark.ci] if one.ci else []
        if one.pending:
            marks.append(pytest.mark.xfail(strict=True, reason=one.pending))
        yield pytest.param(one, id=one.name.replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("incident", list(_parameters()))
def test_incident(incident, lab, rows):
    story = iter(incident.story(lab))
    next(story)
    wrong = []
    for expect in incident.expect:
        run = lab.check(expect.check, *expect.options, where=expect.where)
        faults = expect.faults(run)
        rows.append(Row(incident.name, run.status, "; ".join(faults) or "right"))
        if faults:
            wrong.append("\n".join([*faults, run.out]))
    assert not wrong, "\n\n".join(wrong)
    try:
        next(story, None)
    except BaseException as error:
        rows.append(Row(incident.name, "the advice, pasted", str(error).split("\n")[0]))
        raise
