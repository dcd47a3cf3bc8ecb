"""Every loss and its derivative, as small multiples drawn from the library itself."""

from __future__ import annotations

import argparse
import pathlib
import sys

from bench.gallery import chart
from bench.gallery.table import CURVES

PICTURE = pathlib.Path(__file__).parent / "gallery.png"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gallery", description=__doc__)
    parser.add_argument("losses", nargs="*", metavar="loss", help="names; by default all")
    parser.add_argument("--picture", default=PICTURE, help="the file to write (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.losses) - CURVES.keys())
    if unknown:
        parser.error(f"no such loss: {', '.join(unknown)}; there are {', '.join(CURVES)}")
    curves = [CURVES[name] for name in options.losses or CURVES]
    chart.small_multiples(curves).savefig(options.picture, dpi=120)
    print(f"{len(curves)} losses drawn into {options.picture}")


if __name__ == "__main__":
    main(sys.argv[1:])
