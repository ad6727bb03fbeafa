"""The repository keeps its promises: README, help and commands agree; configs say how to run them; files stay short."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import click
import pytest

from cli import main

ROOT = Path(__file__).resolve().parent.parent
LINES = 450


def documents() -> list[Path]:
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]


def blocks(path: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages: fenced ones, and indented ones ("python" where they import)."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", plain, flags=re.MULTILINE):
        code = textwrap.dedent(block).strip()
        found.append(("python" if re.match(r"(from|import) ", code) else "", code))
    return [code for language, code in found if language in languages]


def commands(path: Path) -> list[list[str]]:
    """Every `fsearch ...` line of a page's shell blocks, as words; a backslash joins lines."""
    lines = "\n".join(blocks(path, "sh", "bash", "shell", "console", "")).replace("\\\n", " ").splitlines()
    shown = [line.strip().removeprefix("$ ").strip() for line in lines]
    found = []
    for line in shown:
        for piece in re.split(r"&&|\|", line):
            if re.match(r"(?:[A-Z_]+=\S+ )*fsearch ", piece.strip()):
                words = shlex.split(piece, comments=True)
                found.append(words[words.index("fsearch") + 1 :])
    return found


@pytest.fixture(scope="module")
def readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not text.strip():
        pytest.skip("README.md is empty so far")
    return text


@pytest.mark.parametrize("page", [path.name for path in documents()])
def test_commands_in_the_pages_exist_and_parse(page: str) -> None:
    path = next(each for each in documents() if each.name == page)
    for words in commands(path):
        if words[0].startswith("-"):
            continue
        assert words[0] in main.commands, f"{page}: fsearch {words[0]}"
        if any(word in ("-h", "--help", "...") for word in words):
            continue
        try:
            command, rest = main.commands[words[0]], words[1:]
            if isinstance(command, click.Group):
                assert rest[0] in command.commands, f"{page}: fsearch {' '.join(words[:2])}"
                command, rest = command.commands[rest[0]], rest[1:]
            command.make_context(words[0], rest)
        except click.UsageError as error:
            pytest.fail(f"{page}: fsearch {' '.join(words)}: {error.format_message()}")


def test_the_readme_names_every_command(readme: str) -> None:
    missing = [name for name in main.commands if not re.search(rf"fsearch {name}\b", readme)]
    assert missing == []


@pytest.mark.parametrize("page", [path.name for path in documents()])
def test_options_named_in_the_pages_exist(page: str) -> None:
    path = next(each for each in documents() if each.name == page)
    groups = [each for each in main.commands.values() if isinstance(each, click.Group)]
    every = [*main.commands.values(), *(each for group in groups for each in group.commands.values())]
    known = {option for command in every for each in command.params for option in each.opts}
    known |= {"--help", "--version"}
    prose = re.sub(r"^(?!.*fsearch).*(?:pip|make|git|pytest|ruff|python) .*$", "", path.read_text("utf-8"), flags=re.M)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose))
    assert named - known == set()


@pytest.mark.parametrize("page", [path.name for path in documents()])
def test_python_in_the_pages_compiles_and_its_names_can_be_imported(page: str) -> None:
    path = next(each for each in documents() if each.name == page)
    for block in blocks(path, "python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("retrieval", "index", "cli"):
                module = __import__(node.module or "", fromlist=["_"])
                for name in node.names:
                    assert hasattr(module, name.name), f"{page}: from {node.module} import {name.name}"


def test_the_example_of_vectors_alone_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(ROOT / "docs" / "vectors.md", "python")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec(compile(block, "docs/vectors.md", "exec"), space := {"__name__": "example"})
    finally:
        os.chdir(before)
    recall, joined = capsys.readouterr().out.splitlines()
    assert 0.9 <= float(recall) <= 1
    assert ast.literal_eval(joined)[0] == {"id": "item-7", "price": "7"}
    assert space["change"].added == 1
    assert space["gallery"].manifest.photos == 3000
    assert space["hits"].rows.shape == (2, 10)


@pytest.mark.parametrize("page", [path.name for path in documents()])
def test_links_in_the_pages_lead_somewhere(page: str) -> None:
    path = next(each for each in documents() if each.name == page)
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{page}: {target}"


def tracked() -> list[Path]:
    """Files of the repository, those not yet added too; none of what git ignores."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]


def test_files_stay_short() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in tracked() if path.suffix == ".py"}
    assert {str(path): lines for path, lines in lengths.items() if lines > LINES} == {}


def test_index_is_never_imported_as_a_name() -> None:
    """``import index`` would be hidden by any variable called index."""
    for path in tracked():
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert "index" not in [name.name for name in node.names], path


def test_nothing_is_unpickled() -> None:
    for path in tracked():
        if path.suffix == ".py" and path.parts[len(ROOT.parts)] in ("index", "retrieval"):
            assert not re.search(r"\btorch\.load\b|\bpickle\b|allow_pickle=True", path.read_text("utf-8")), path


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_a_config_says_how_to_run_it(config: str) -> None:
    """Its header holds its command, and the command exists."""
    text = (ROOT / "configs" / config).read_text(encoding="utf-8")
    header = "\n".join(line for line in text.split("\nname:")[0].splitlines() if line.startswith("#"))
    assert "Command:" in header, f"configs/{config}: its header names no command"
    assert re.search(rf"fsearch train(-outfits|-detector)? {Path(config).stem}\b", header)
    for line in re.findall(r"fsearch [^\n&]+", header):
        words = shlex.split(line)
        assert words[1] in main.commands


def test_what_is_installed_names_its_data() -> None:
    """Configs and page assets travel with the package: every such file matches a pattern of setup.cfg."""
    import configparser

    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    data = {package: patterns.split(",") for package, patterns in settings["options.package_data"].items()}
    folders = {"retrieval.configs": ROOT / "configs", "retrieval.serving": ROOT / "retrieval" / "serving"}
    for package, folder in folders.items():
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(path.match(pattern.strip()) for pattern in data[package]), path
    packages = settings["options"]["packages"].split()
    for path in (*(ROOT / "index").rglob("__init__.py"), *(ROOT / "retrieval").rglob("__init__.py")):
        assert ".".join(path.parent.relative_to(ROOT).parts) in packages
