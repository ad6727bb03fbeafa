"""The command line: parse, one call, print. Errors become one line and exit code 1 (2 for wrong usage)."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from index.errors import FsearchError
from index.recipe import KINDS, bytes_of
from retrieval.commands.bench import bench
from retrieval.commands.data import data
from retrieval.commands.detect import detect as detect_command
from retrieval.commands.detect import detecting, finding, framed, framing, wanted
from retrieval.commands.duplicates import duplicates
from retrieval.commands.explain import explain
from retrieval.commands.generate import generate
from retrieval.commands.info import info
from retrieval.commands.mine import mine
from retrieval.commands.options import FOLDER, INTERRUPTED, RESUMES, Share
from retrieval.commands.options import gallery as _gallery
from retrieval.commands.outfit import outfit
from retrieval.commands.train_detector import train_detector
from retrieval.commands.train_outfits import train_outfits

AGAIN = "run the same command again; it begins anew"
EITHER = "all of it was done or nothing: `fsearch info` says which"
RESUMED = ("build-index", "add", "train", "train-detector", "mine", "generate")


class Commands(click.Group):
    """Turns what users can mend into one line; lists commands in the order of their use."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FsearchError as error:
            click.echo(f"fsearch: {' '.join(str(error).split())}", err=True)
        except KeyboardInterrupt:
            on = RESUMES if ctx.invoked_subcommand in RESUMED else "nothing was written"
            click.echo(f"fsearch: interrupted; {ctx.meta.get(INTERRUPTED, on)}", err=True)
            sys.exit(130)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
                raise
            click.echo(f"fsearch: the output cannot be written ({error.strerror})", err=True)
        sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fsearch", prog_name="fsearch")
def main() -> None:
    """Fashion image search that takes edits: show a photo, say "this, but in gray"."""


def _index(recipe: str | None) -> Callable[..., Any]:
    """The options that say which index is built."""
    anew = "Another kind of index." if recipe is None else "The kind of index; auto tries them on the vectors."
    options = [
        click.option("--recipe", type=click.Choice(["auto", *KINDS]), default=recipe, show_default=True, help=anew),
        click.option(
            "--memory", metavar="SIZE", callback=lambda _, __, size: None if size is None else bytes_of(size),
            help="What the index may hold in memory, such as 2GB; kept by later builds; 0 lifts it.",
        ),
        click.option("--device", metavar="NAME", help="Where torch builds an ivfpq index: cuda or cpu."),
    ]  # fmt: skip

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def _vectors(command: Callable[..., Any]) -> Callable[..., Any]:
    said = "Index this column of a Parquet, lists of floats, instead of photos."
    return click.option("--vectors", metavar="COLUMN", help=said)(command)


@main.command("build-index")
@click.argument("photos", type=FOLDER, required=False)
@_gallery
@click.option("--labels", type=FOLDER, help="CSV or Parquet with an id (file name without its ending) or path column.")
@click.option("--model", help="A .safetensors checkpoint, or a shipped model's name.  [default: products]")
@_index("auto")
@_vectors
@click.option("--blocks", metavar="NAME=DIMS,...", help="The blocks of --vectors, in order.  [default: one, vector]")
@detecting
@click.option("--replace", is_flag=True, help="Replace a gallery of other photos or another model.")
@click.option("--reindex", is_flag=True, help="Only build the index anew, from the gallery's table.")
def build_index(
    photos: Path | None, gallery: Path, labels: Path | None, model: str | None, recipe: str, memory: int | None,
    device: str | None, vectors: str | None, blocks: str | None, detect: bool, detector: Path | None,
    replace: bool, reindex: bool,
) -> None:  # fmt: skip
    """Embed a folder (or CSV, or Parquet) of photos and index it; interrupted, it goes on where it stopped.

    \b
    fsearch build-index photos/ --labels labels.csv --gallery shop.gallery
    """
    if (photos is None) != reindex:
        raise click.UsageError("give PHOTOS, or --reindex to index an existing gallery anew")
    if detect and (reindex or vectors is not None):
        raise click.UsageError("--detect crops PHOTOS, not what --vectors or --reindex take")
    if (vectors is None and blocks is not None) or (vectors is not None and (photos is None or labels or model)):
        raise click.UsageError(
            "--vectors COLUMN goes with a Parquet and --blocks, not with --labels, --model, --reindex"
        )
    if photos is not None and vectors is not None:
        from index.create import create, parse_blocks

        click.get_current_context().meta[INTERRUPTED] = AGAIN
        made = create(
            gallery, photos, blocks=None if blocks is None else parse_blocks(blocks), vector_column=vectors,
            kind=recipe, memory=memory, device=device, replace=replace, progress=True,
        )  # fmt: skip
        click.echo(_summary(made))
        return
    from retrieval import embed
    from retrieval.datasets.readers import open_photos

    if photos is None:
        made = embed.reindex(gallery, recipe, progress=True, memory=memory, device=device)
        click.echo(_summary(made))
        return
    built = embed.build_gallery(
        open_photos(photos, labels), gallery, model, kind=recipe, replace=replace, memory=memory, device=device,
        detector=wanted(detect, detector), progress=True,
    )  # fmt: skip
    click.echo(_summary(built.gallery) if built.fresh else f"{gallery} is up to date: {_summary(built.gallery)}")
    if built.rejected:
        reasons = embed.rejected_reasons(built.gallery)
        click.echo(f"{built.rejected} not indexed ({reasons}); see {embed.rejected_path(built.gallery)}")


@main.command()
@click.argument("photos", type=FOLDER)
@_gallery
@click.option("--labels", type=FOLDER, help="As for build-index; only columns that the gallery has.")
@_vectors
@detecting
def add(
    photos: Path, gallery: Path, labels: Path | None, vectors: str | None, detect: bool, detector: Path | None
) -> None:
    """Add photos to a gallery, in place of those whose ids it has; interrupted, it goes on where it stopped.

    \b
    fsearch add new-photos/ --labels labels.csv --gallery shop.gallery
    """
    change: Any
    if vectors is not None:
        from index.create import add_vectors

        if labels or detect:
            raise click.UsageError("--vectors takes labels from the Parquet's own columns, not from --labels, --detect")
        click.get_current_context().meta[INTERRUPTED] = EITHER
        change = add_vectors(gallery, photos, vector_column=vectors, progress=True)
    else:
        from retrieval import catalogue
        from retrieval.datasets.readers import open_photos

        cropped = wanted(detect, detector)
        change = catalogue.add_photos(open_photos(photos, labels), gallery, detector=cropped, progress=True)
    done = f"{change.added:,} added, {change.removed:,} of them in place of old ones"
    _changed(change, done if change.added else "nothing new")
    if vectors is None and change.rejected:
        click.echo(f"{change.rejected:,} not added ({change.reasons}); see {change.gallery.file('rejected.parquet')}")


@main.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_gallery
@click.option("--ids", "file", type=FOLDER, metavar="FILE", help="A file of ids: one a line, or its id column.")
def remove(ids: tuple[str, ...], gallery: Path, file: Path | None) -> None:
    """Remove photos from a gallery by their ids; they answer no more.

    \b
    fsearch remove s00004-0 s00007-1 --gallery shop.gallery
    """
    from index import catalogue as rows
    from retrieval.datasets.tables import read_ids

    if bool(ids) == (file is not None):
        raise click.UsageError("give IDs, or --ids FILE")
    click.get_current_context().meta[INTERRUPTED] = EITHER
    change = rows.remove(gallery, read_ids(file) if file is not None else ids)
    _changed(change, f"{change.removed:,} removed")


@main.command()
@_gallery
@_index(None)
def compact(gallery: Path, recipe: str | None, memory: int | None, device: str | None) -> None:
    """Drop removed photos from a gallery's table and train its index anew; readers are not disturbed.

    \b
    fsearch compact --gallery shop.gallery
    """
    from index import catalogue as rows

    click.get_current_context().meta[INTERRUPTED] = EITHER
    change = rows.compact(gallery, recipe, progress=True, memory=memory, device=device)
    _changed(change, f"{change.removed:,} rows dropped")


def _changed(change: Any, done: str) -> None:
    click.echo(f"{done}: {_summary(change.gallery)}")
    for line in [*filter(None, [change.short]), *change.gallery.advice()]:
        click.echo(line)


def _summary(gallery: Any) -> str:
    manifest = gallery.manifest
    recipe = manifest.current.recipe if manifest.current else {"kind": "no index"}
    made = f"model {manifest.model['name']} {manifest.model['fingerprint']}" if manifest.has_model else "no model"
    what = "photos" if manifest.has_model else "vectors"
    return f"{manifest.photos:,} {what}, {manifest.layout.dim} dimensions, {recipe['kind']} index, {made}"


@main.command()
@click.argument("photo", type=FOLDER, required=False)
@_gallery
@click.option("--set", "set_", multiple=True, metavar="NAME=VALUE", help="Edit an attribute; may be repeated.")
@click.option("--from", "from_", multiple=True, metavar="NAME=VALUE", help="The value an edit replaces.")
@click.option("--weight", multiple=True, metavar="NAME=NUMBER", help="Factor on a block's weight, such as color=2.")
@click.option("--drop", multiple=True, metavar="NAME", help="Any value will do: weight 0.")
@click.option("--where", multiple=True, metavar="CONDITION", help="Keep rows such as 'price<50 and not color=red'.")
@click.option("--text", metavar="WORDS", help="Words for what is wanted, alone or beside a photo or --like.")
@click.option("--like", metavar="ID", help="Query by a gallery row instead of a photo; it does not answer itself.")
@framing
@click.option("--exclude", multiple=True, metavar="ID", help="A row that must not be an answer; may be repeated.")
@click.option("--one-per", metavar="COLUMN", help="At most one result, the best, for each value of this column.")
@click.option("--min-score", type=float, metavar="NUMBER", help="Only results whose score is at least this.")
@click.option("--topk", "-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--page", type=click.IntRange(1), default=1, help="2 for the next topk results, and so on.")
@click.option("--recall", type=Share(), help="Least recall@topk to search for.  [default: 0.95]")
@click.option("--nprobe", type=click.IntRange(1), help="Lists to probe, or a graph's efSearch, instead of --recall.")
@click.option("--rerank", type=click.IntRange(1), help="Candidates to score on the stored vectors, likewise.")
@click.option("--explain", "why", is_flag=True, help="Say what each block adds to a score; with --save, heat maps too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save", type=FOLDER, metavar="FILE", help="Save the results as pictures: .html or .png.")
@click.option("--batch", type=FOLDER, metavar="FILE", help="Queries from a CSV or Parquet instead; needs --out.")
@click.option("--out", type=FOLDER, metavar="FILE", help="Where --batch writes its results: .csv or .parquet.")
@click.option("--model", help="The checkpoint, or shipped model, that made the gallery.  [default: its copy]")
@click.option("--outfits", type=FOLDER, help="The model that reads --text.  [default: the shipped one]")
def query(
    photo: Path | None, gallery: Path, set_: tuple[str, ...], from_: tuple[str, ...], weight: tuple[str, ...],
    drop: tuple[str, ...], where: tuple[str, ...], like: str | None, exclude: tuple[str, ...], one_per: str | None,
    min_score: float | None, topk: int, page: int, recall: float | None, nprobe: int | None, rerank: int | None,
    why: bool, as_json: bool, save: Path | None, batch: Path | None, out: Path | None, model: str | None,
    text: str | None, outfits: Path | None, box: tuple[int, int, int, int] | None, detect: str | None,
    detector: Path | None,
) -> None:  # fmt: skip
    """Search by a photo, edited: same style, other color.

    \b
    fsearch query img.jpg --set color=gray --where gender=Women --save sheet.html
    fsearch query img.jpg --box 20,30,60,80 --gallery shop.gallery
    fsearch query --text "navy polo shirt" --gallery shop.gallery
    fsearch query --batch queries.csv --gallery shop.gallery --topk 30 --out results.parquet
    """
    from retrieval import query as q
    from retrieval.engine import Engine

    if (n := (photo is not None) + (like is not None) + (batch is not None)) > 1 or n + (text is not None) == 0:
        raise click.UsageError("give one of PHOTO, --like ID, --text WORDS and --batch FILE")
    if (batch is None) != (out is None):
        raise click.UsageError("--batch FILE and --out FILE go together")
    if batch is not None and out is not None:
        apart = set_, from_, weight, drop, where, exclude, one_per, min_score is not None, why, as_json, save, text
        if box or any(apart):
            raise click.UsageError("--batch takes edits, filters, weights, boxes from the file's columns, not options")
        from retrieval.serving.batch import run_batch

        engine = Engine.open(gallery, model, nprobe, rerank)
        engine.outfits = outfits
        find = finding(detect, detector)
        done, failed = run_batch(engine, batch, out, topk, recall, (page - 1) * topk, progress=True, find=find)
        click.echo(f"{done:,} queries answered, {failed:,} failed (see the error column); results in {out}")
        return
    frame = framed(photo, box, detect, detector)
    if save is not None:
        from retrieval.serving.sheet import checked

        checked(save, inputs=[photo])
    engine = Engine.open(gallery, model, nprobe, rerank)
    engine.outfits = outfits
    result = engine.query(
        photo, text=text, like=like, set=q.assignments(set_), old=q.assignments(from_, "--from"),
        weight=q.weights_of(weight), drop=drop, where=where, exclude=exclude, one_per=one_per, min_score=min_score,
        topk=topk, offset=(page - 1) * topk, recall=recall, explain=why, box=frame.box if frame else None,
    )  # fmt: skip
    if text is not None and (unknown := engine.words.codes(text)[1]):
        click.echo(f"passed over, never learned: {', '.join(unknown)}", err=True)
    if save is not None:
        from retrieval.serving.pages import save_result

        save_result(save, engine, result, photo if photo is not None else like or "", text, frame)
    if as_json:
        told = result.to_json() | ({"frame": frame.to_json()} if frame else {})
        click.echo(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        click.echo((f"{frame.words()}\n" if frame else "") + result.text())
    if save is not None:
        click.echo(f"saved {save}", err=as_json)


main.add_command(detect_command)
main.add_command(explain)
main.add_command(bench)
main.add_command(duplicates)
main.add_command(outfit)
main.add_command(info)


@main.command()
@_gallery
def verify(gallery: Path) -> None:
    """Read a whole gallery and check every checksum, row count, unique id and fingerprint.

    \b
    fsearch verify --gallery shop.gallery
    """
    from index.gallery import remains
    from index.gallery import verify as check

    faults = check(gallery)
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        sys.exit(1)
    for line in remains(gallery):
        click.echo(line)
    click.echo(f"{gallery} is sound")


@main.command()
@click.argument("config", type=FOLDER)
@click.option("--photos", type=FOLDER, help="Photo folder, CSV or Parquet.  [default: the config's data.photos]")
@click.option("--labels", type=FOLDER, help="As for build-index.  [default: the config's data.labels]")
@click.option("--out", type=FOLDER, help="The checkpoint to write.  [default: runs/NAME.safetensors]")
@click.option("--half", is_flag=True, help="Store the weights as float16, half the size.")
def train(config: Path, photos: Path | None, labels: Path | None, out: Path | None, half: bool) -> None:
    """Train a network by a config (a name or a .yaml file); interrupted, it goes on where it stopped.

    \b
    fsearch train generated --photos garments/ --out garments.safetensors
    """
    from retrieval.training.run import train_from

    facts = train_from(config, photos, labels, out, half=half, progress=True)
    click.echo(json.dumps(facts, indent=1, ensure_ascii=False))


main.add_command(train_detector)
main.add_command(train_outfits)
main.add_command(mine)
main.add_command(generate)

main.add_command(data)


if __name__ == "__main__":
    main()
