"""Fixtures for tests against the daemons that run the suite: what they need, and a host each."""

from __future__ import annotations

import pytest

from support.nrpe_agent import CHECK_NRPE, NRPE, Agent, nrpe_with_arguments


@pytest.fixture(scope="session")
def agents(need, installed):
    """A function that makes an NRPE agent (see Agent); start it by `with`."""
    programs = ("ip", "nft", "conntrack", "unshare", "nsenter", "setpriv", "sudo", "visudo")
    need(*programs, NRPE, str(CHECK_NRPE))
    tree, _ = installed

    def make(grant: str, **more) -> Agent:
        return Agent(tree, grant, **more)

    return make


@pytest.fixture(scope="module")
def sudo_agent(agents):
    """An agent whose user may start the reader through sudo, as shipped."""
    with agents("sudo") as agent:
        yield agent


@pytest.fixture(scope="module")
def capable_agent(agents):
    """An agent that has the capabilities of the shipped drop-in."""
    with agents("capabilities") as agent:
        yield agent


@pytest.fixture(params=["sudo", "capabilities"])
def agent(request):
    """Either of them."""
    name = "sudo_agent" if request.param == "sudo" else "capable_agent"
    return request.getfixturevalue(name)


@pytest.fixture(scope="module")
def open_agent(agents, need):
    """An agent that was built to take arguments from the network, and is told to."""
    need("gcc", "make", "apt-get", "dpkg-query")
    built = nrpe_with_arguments()
    with agents("sudo", arguments=built, settings="dont_blame_nrpe=1\n") as agent:
        yield agent
