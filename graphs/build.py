#!/usr/bin/env python3
"""Write the graphs: templates for Icinga Web, dashboards for Grafana, carbon's aggregation.

panels.ini says what is drawn and how. Run `make definitions` after a change there; a test compares
the files with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import grafana_boards  # noqa: E402
import graphite_functions  # noqa: E402
import icinga_web  # noqa: E402
import panels  # noqa: E402


def files() -> dict[str, str]:
    """Return all that is written, by its path below this folder."""
    graphs = panels.read(HERE / "panels.ini")
    written = {"carbon/storage-aggregation.conf": graphite_functions.aggregation(graphs)}
    for check in panels.CHECKS:
        written[f"icingaweb2/conntrack_{check}.ini"] = icinga_web.templates(graphs, check)
    for kind in grafana_boards.KINDS:
        text = json.dumps(grafana_boards.dashboard(graphs, kind), indent=2)
        written[f"grafana/conntrack-{kind}.json"] = text + "\n"
    return written


def main() -> int:
    """Write them."""
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
