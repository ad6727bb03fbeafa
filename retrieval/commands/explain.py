"""``fsearch explain``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from retrieval.commands.options import FOLDER

if TYPE_CHECKING:
    from retrieval.explain.heat import Method
    from retrieval.models.checkpoint import Model
    from retrieval.query import Names


@click.command()
@click.argument("photos", nargs=-1, required=True, type=FOLDER, metavar="PHOTO...")
@click.option("--attribute", "-a", metavar="NAME", help="The attribute to explain.")
@click.option("--branches", is_flag=True, help="In place of an attribute: what each branch of look looks at.")
@click.option("--value", metavar="VALUE", help="The value to find reasons for.  [default: the predicted one]")
@click.option(
    "--method",
    type=click.Choice(["head-cam", "layer-cam", "grad-cam"]),
    default="head-cam",
    show_default=True,
    help="How heat is told: by what the head takes from the last map, by gradients of two maps, or of the last one.",
)
@click.option(
    "--gallery", "-g", type=FOLDER, envvar="FSEARCH_GALLERY", default="gallery", show_default=True,
    help="Whose model explains; $FSEARCH_GALLERY if set.",
)  # fmt: skip
@click.option("--model", help="A checkpoint, or a shipped model's name, instead of a gallery's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the heat map and the 7 x 7 representation in it.")
@click.option("--save", type=FOLDER, metavar="FILE", help="Save the reasons as pictures: .html or .png.")
def explain(
    photos: tuple[Path, ...], attribute: str | None, branches: bool, value: str | None, method: Method, gallery: Path,
    model: str | None, as_json: bool, save: Path | None,
) -> None:  # fmt: skip
    """Show why an attribute of a photo is what the model says: heat map, box, what is under it, probabilities.

    \b
    fsearch explain img.jpg --attribute sleeve --gallery shop.gallery --save why.png
    """
    from retrieval.explain.attribute import explain as explained
    from retrieval.serving.explained import save_explanations, summary
    from retrieval.serving.sheet import checked

    if branches == (attribute is not None):
        if branches:
            raise click.UsageError("--branches and --attribute do not go together: masks are of no attribute")
        raise click.MissingParameter(param_hint="'--attribute'", param_type="option")
    chosen = click.get_current_context().get_parameter_source("method") == ParameterSource.COMMANDLINE
    if branches and (value is not None or chosen):
        raise click.UsageError("--branches shows masks as they are: not with --value or --method")
    if save is not None:
        checked(save, inputs=photos)
    network, names = _network(gallery, model)
    facts = {"model": f"{network.config.name} {network.fingerprint}"}
    if attribute is None:
        return _branches(network, photos, save, facts, as_json)
    name = names.attribute(attribute)
    wanted = names.value(name, value) if value is not None else None
    found = explained(network, photos, name, wanted, method)
    if save is not None:
        save_explanations(save, photos, found, facts)
    _tell(photos, found, summary, as_json, save)


def _branches(
    network: Model, photos: tuple[Path, ...], save: Path | None, facts: dict[str, str], as_json: bool
) -> None:
    from retrieval.explain.branches import branches
    from retrieval.serving.explained import save_branches, told_branches

    found = branches(network, photos)
    if save is not None:
        save_branches(save, photos, found, facts)
    _tell(photos, found, told_branches, as_json, save)


def _tell(
    photos: tuple[Path, ...], found: Sequence[Any], words: Callable[..., str], as_json: bool, save: Path | None
) -> None:
    """Print what was found of each photo, as JSON or in words, and where the picture went."""
    if as_json:
        told = [{"photo": str(photo)} | each.to_json() for photo, each in zip(photos, found, strict=True)]
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        click.echo(words(photos, found))
    if save is not None:
        click.echo(f"saved {save}", err=as_json)


def _network(gallery: Path, model: str | None) -> tuple[Model, Names]:
    """The model that explains, and the names that it understands."""
    from retrieval.query import Names

    if model is None:
        from retrieval.engine import Engine

        engine = Engine.open(gallery)
        return engine.model, engine.names
    from retrieval.models import checkpoint

    network = checkpoint.read(model)
    search = network.config.search
    return network, Names(network.vocabulary, {"attributes": search.attribute_aliases, "values": search.value_aliases})
