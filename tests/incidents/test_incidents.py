"""Stage every incident: the first line names it, and the advice ends it and harms nobody."""

from __future__ import annotations

import pytest

from incidents import floods, healthy, history, leaks, nat, nodes, outages, stale, udp
from incidents.lab import INCIDENTS, Row

# Importing them adds their incidents.
MODULES = floods, udp, outages, leaks, nat, nodes, stale, history, healthy


def _parameters():
    for one in INCIDENTS:
        marks = [pytest.mark.ci] if one.ci else []
        yield pytest.param(one, id=one.name.replace(" ", "-"), marks=marks)


def _answers(incident, lab, rows):
    wrong = []
    for expect in incident.expect:
        run = lab.check(expect.check, *expect.options, where=expect.where)
        faults = expect.faults(run)
        rows.append(Row(incident.name, run.status, "; ".join(faults) or "right"))
        if faults:
            wrong.append("\n".join([*faults, run.out]))
    assert not wrong, "\n\n".join(wrong)


def _advice(incident, story, rows):
    try:
        next(story, None)
    except AssertionError as error:
        rows.append(Row(incident.name, "its advice, pasted", str(error).partition("\n")[0]))
        raise


@pytest.mark.parametrize("incident", list(_parameters()))
def test_incident(incident, lab, rows):
    story = iter(incident.story(lab))
    next(story)
    try:
        _answers(incident, lab, rows)
        _advice(incident, story, rows)
    except AssertionError:
        if incident.pending:
            pytest.xfail(incident.pending)
        raise
    assert not incident.pending, f"no longer wrong: {incident.pending}"
