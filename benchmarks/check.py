"""Run the commands of expected.yaml and compare each figure with the one expected.

    python benchmarks/check.py [NAME ...] [--data FOLDER]

``{data}`` in a command is the folder of real photos (--data, or $FSEARCH_DATA); entries that need it are skipped
without it. A command prints its figures or writes JSON; ``figures`` says where each is found and how far it may be off.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import yaml

HERE = Path(__file__).resolve().parent


def found(figure: dict[str, Any], printed: str, folder: Path) -> float:
    """One figure: ``json`` (file and keys) or ``print`` (a regular expression with one group)."""
    if "json" in figure:
        value: Any = json.loads((folder / figure["json"]).read_text(encoding="utf-8"))
        for key in figure["keys"]:
            value = value[key]
        return float(value)
    match = re.search(figure["print"], printed)
    if match is None:
        raise click.ClickException(f"nothing like {figure['print']!r} was printed")
    return float(match[1].replace(",", ""))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--data", type=click.Path(path_type=Path, exists=True), envvar="FSEARCH_DATA")
@click.option(
    "--work", type=click.Path(path_type=Path), default="runs", show_default=True, help="Where commands write."
)
def main(names: tuple[str, ...], data: Path | None, work: Path) -> None:
    """Exit code 1 when a figure is off."""
    entries = yaml.safe_load((HERE / "expected.yaml").read_text(encoding="utf-8"))
    work.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name in names or entries:
        entry = entries[name]
        if "{data}" in entry["command"] and data is None:
            click.echo(f"{name}: skipped, it needs the real photos (--data)")
            continue
        command = entry["command"].format(data=data, work=work)
        click.echo(f"{name}: {' '.join(command.split())}")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=HERE.parent, text=True, stdout=subprocess.PIPE,
            env=os.environ | {"PATH": path}, check=False,
        )  # fmt: skip
        if done.returncode:
            click.echo(f"  failed with exit code {done.returncode}")
            wrong += 1
            continue
        for label, figure in entry["figures"].items():
            value = found(figure, done.stdout, work)
            good = abs(value - figure["expected"]) <= figure["within"]
            wrong += not good
            said = "ok" if good else "OFF"
            click.echo(
                f"  {said:3} {label}: {value:.4g}, expected {figure['expected']:.4g} within {figure['within']:.4g}"
            )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
