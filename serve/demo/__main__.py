"""`python -m serve.demo [--out DIR]`: make the demo models, unless they are there already."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from serve.demo import corpus, publish
from serve.demo.errors import DemoError

_NAMES = ("demo", "demo-adapters", "demo-embed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m serve.demo", description="Make the demo models.")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to make them in (default: models)")
    out: Path = parser.parse_args().out
    try:
        _make_if_needed(out)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _make_if_needed(out: Path) -> None:
    wanted = publish.digest(Path(__file__).parent)
    if publish.is_current(out, wanted, _NAMES):
        return
    subjects = corpus.load()
    print(f"demo: training a small model and its adapters into {out}/, one to two minutes on 2 cores", file=sys.stderr)
    # Threads that wait asleep: spinning ones starve each other wherever anything else runs. Read at torch's import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Here, as torch takes seconds to import and is needed only now.
    from serve.demo.make import make

    with publish.only_one(out):
        if publish.is_current(out, wanted, _NAMES):
            return
        with publish.publishing(out, wanted, _NAMES) as aside:
            make(subjects, aside)


if __name__ == "__main__":
    sys.exit(main())
