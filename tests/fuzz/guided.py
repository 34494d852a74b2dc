"""Fuzz one target, guided by coverage: guided.py netlink|text|log [libFuzzer's options].

Needs atheris. Starts from the corpus in this folder and writes what it finds new, and what breaks,
into the folder that is named first among the options.
"""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["check_conntrack"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    corpus = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", name)
    atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name])
    atheris.Fuzz()
