"""What the pages say exists: commands, variables, names, paths, links, specs and code."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from penstock import cli, routes
from penstock.command.exits import HELP
from penstock.connections import Connections
from penstock.contract import JobSpec
from services.export.format import Format
from services.extract.source import Reader, Source
from services.upload.platform import Platform, Sender
from tests.deployment import DEPLOY, ROOT, env_example, own_services, settings_variables

PAGES = sorted(
    [*ROOT.glob("*.md"), *(p for p in ROOT.glob("docs/**/*.md") if p.parent.name != "reference")]
)
#: Variables of others that env.example has no need for.
OTHERS = {"FLOWER_UNAUTHENTICATED_API"}
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()}
#: What the pages say of the machine, and is not ours to check.
PROGRAMS = {"case", "cd", "esac", "exit", "cp", "curl", "echo", "gunzip", "head", "openssl", "pip", "psql", "python",
            "python3", "redis-cli", "xargs", "."}  # fmt: skip
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fenced:
    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        line = self.page.read_text(encoding="utf-8").split(self.text)[0].count("\n")
        return f"{name_of(self.page)}:{line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced(*languages: str) -> list[Fenced]:
    return [
        Fenced(page, language, text)
        for page in PAGES
        for language, text in _FENCE.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def every_page() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", PAGES, ids=name_of)


def every_block(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", fenced(*languages), ids=str)


def test_there_is_something_to_check() -> None:
    """A glob or a pattern that no longer fits would make the rest of this file pass."""
    assert {name_of(page) for page in PAGES} >= {
        "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/index.md",
        "docs/tutorial/first-job.md", "docs/howto/operate.md", "docs/explanation/guarantees.md",
    }  # fmt: skip
    for language in ("sh", "toml", "json", "python", "text"):
        assert fenced(language), language
    assert len(list(commands())) > 30
    assert {block.language for page in PAGES for block in blocks_of(page)} <= {
        "sh", "toml", "json", "python", "text",
    }  # fmt: skip


def blocks_of(page: Path) -> list[Fenced]:
    return [Fenced(page, *found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


# ---- Links


@every_page()
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target).resolve()
        for target in re.findall(r"\]\(([^)#\s]+)\)", index.read_text(encoding="utf-8"))
    }
    assert set(ROOT.glob("docs/*/*.md")) <= linked


# ---- Names in the text


@every_page()
def test_variables_are_read_by_something(page: Path) -> None:
    known = settings_variables().keys()
    others = {name for name in env_example() if not name.startswith("PENSTOCK_")} | OTHERS
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\bPENSTOCK_[A-Z_]+\b", text):
        assert name.removesuffix("_FILE") in known, name
    for name in re.findall(r"\b(?:FLOWER|POSTGRES|REDIS|AWS|REMAP)_[A-Z_]+\b", text):
        assert name in others, name


def defaults() -> dict[str, Any]:
    return {
        name: field.default
        for name, fields in settings_variables().items()
        for field in fields
        if isinstance(field.default, int | float)
    }


@every_page()
def test_a_default_in_brackets_is_the_default(page: Path) -> None:
    for name, told in re.findall(r"`(PENSTOCK_\w+)`(?:,)? \(?(\d+)\)", prose(page)):
        assert defaults()[name] == float(told), name


@every_page()
def test_dotted_names_are_tasks_queues_tables_or_code(page: Path) -> None:
    tables = set(re.findall(
        r"create table (penstock\.\w+)",
        "".join(p.read_text() for p in ROOT.glob("penstock/ledger/migrations/*.sql")),
    ))  # fmt: skip
    known = {*routes.QUEUES, *routes.ALL_QUEUES} | tables
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.])(?:penstock|services)(?:\.\w+)+", text):
        if name not in known and not any(name == f"{t}.{c}" for t in tables for c in columns(t)):
            assert is_code(name), name


def columns(table: str) -> set[str]:
    sql = "".join(p.read_text() for p in ROOT.glob("penstock/ledger/migrations/*.sql"))
    (body,) = re.findall(
        rf"create table {re.escape(table)} \((.*?)^\);", sql, re.MULTILINE | re.DOTALL
    ) or ("",)
    return set(re.findall(r"^    (\w+) ", body, re.MULTILINE))


def is_code(name: str) -> bool:
    if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file():
        return True  # not imported: a worker's app wants its settings
    module, attributes = name, []
    while module:
        try:
            found = import_module(module)
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes.insert(0, last)
            continue
        for attribute in attributes:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@every_page()
def test_paths_are_there(page: Path) -> None:
    for word in inline(page):
        path = word.split()[-1] if word.startswith(("python ", "pip ")) else word
        if path.partition("/")[0] in TOP and re.fullmatch(r"[\w./*-]+", path):
            assert list(ROOT.glob(path.rstrip("/"))), path
        elif re.fullmatch(r"[\w-]+/", path):
            # A folder of the one that the sentence is about.
            assert list(ROOT.glob(f"**/{path}".rstrip("/"))), path


# ---- Specs


def kind_of(document: Any) -> str:
    if isinstance(document, dict) and "destinations" in document:
        return "spec"
    if isinstance(document, dict) and set(document) == {"args"}:
        return "message"
    return "connections"


@every_block("toml", "json")
def test_a_document_is_valid(
    block: Fenced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (tomllib if block.language == "toml" else json).loads(block.text)
    match kind_of(document):
        case "spec":
            JobSpec.parse(document)
        case "message":
            for spec in document["args"]:
                JobSpec.parse(spec)
        case "connections":
            for name in re.findall(r"\$\{(\w+)\}", block.text):
                monkeypatch.setenv(name, "x")
            path = tmp_path / "connections.toml"
            path.write_text(block.text)
            Connections.load(path)


def test_the_readme_names_connections_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies both has a pair that fits."""
    for name, variable in env_example().items():
        monkeypatch.setenv(name, variable.value)
    connections = Connections.load(DEPLOY / "connections.example.toml")
    specs = [b for b in fenced("toml") if b.page.name == "README.md"]
    assert specs
    for block in specs:
        connections.check(JobSpec.parse(tomllib.loads(block.text)))


# ---- Python


@every_block("python")
def test_python_compiles_and_imports_what_there_is(block: Fenced) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    import_module(alias.name)
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    found = import_module(module)
                    assert hasattr(found, alias.name), f"{module}.{alias.name}"
            case ast.Dict(keys=keys) if any(
                isinstance(k, ast.Constant) and k.value == "destinations" for k in keys
            ):
                JobSpec.parse(ast.literal_eval(node))
            case ast.Attribute(value=ast.Name(id="client"), attr=attribute):
                assert hasattr(import_module("penstock").Client, attribute), attribute


@every_block("python")
def test_what_is_sent_by_name_is_the_task_on_its_queue(block: Fenced) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "send_task":
            (name,) = (a.value for a in node.args if isinstance(a, ast.Constant))
            (queue,) = (k.value.value for k in node.keywords if k.arg == "queue")
            assert routes.QUEUES[name] == queue


@pytest.mark.parametrize("protocol", [Platform, Sender, Source, Reader, Format])
def test_the_page_on_connectors_names_every_call(protocol: Any) -> None:
    words = set(inline(ROOT / "docs" / "howto" / "add-a-platform.md"))
    text = (
        "\n".join(sorted(words))
        + "\n"
        + "".join(b.text for b in fenced("python") if b.page.stem.startswith("add"))
    )
    names = {n for n in vars(protocol) if not n.startswith("_")} | set(protocol.__annotations__)
    assert names
    for name in names:
        assert re.search(rf"\b{name}\b", text), f"{protocol.__name__}.{name}"


# ---- Commands


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where it stands, and its words; those in a fence and those in the text."""
    for block in fenced("sh"):
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            yield from ((str(block), words) for words in parts(line))
    for block in fenced("text"):
        for line in re.findall(
            r"^(?:\$ | {2})((?:penstock|celery|make) .+)$", block.text, re.MULTILINE
        ):
            if not line.startswith("penstock:"):
                yield from ((str(block), words) for words in parts(line))
    for page in PAGES:
        for word in inline(page):
            if re.match(r"(penstock|celery|make|docker compose|python) [a-z./-]", word):
                yield from ((name_of(page), words) for words in parts(word))


def parts(line: str) -> Iterator[list[str]]:
    """The commands of one line."""
    lexer = shlex.shlex(re.sub(r"\$\([^)]*\)", "today", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in ("&&", "||", "|", ";", ";;"):
            # "3) echo …" is a branch of a case: what it runs counts.
            command = words[2:] if words[1:2] == [")"] else words
            if command and not command[0].isdecimal():
                yield command
            words = []
        elif words[-1:] == [">"]:
            words.pop()  # the file that takes the output is the shell's affair
        else:
            words.append(word)


@pytest.mark.parametrize(
    ("where", "words"),
    list(commands()),
    ids=lambda x: x if isinstance(x, str) else " ".join(x)[:60],
)
def test_a_command_is_one(where: str, words: list[str]) -> None:
    program, rest = Path(words[0]).name if words[0] != "." else ".", words[1:]
    match program:
        case "penstock":
            assert_parses(rest)
        case "celery":
            assert_runs(rest)
        case "make":
            assert_makes(rest)
        case "docker":
            assert_composes(rest)
        case "python" | "python3" if rest[:1] == ["-m"]:
            assert rest[1] == "venv" or is_code(rest[1])
        case "python" if rest[:1] != ["-c"]:
            assert (ROOT / rest[0]).is_file()
        case _:
            assert program in PROGRAMS, f"{where}: {program}"


def assert_parses(rest: list[str]) -> None:
    if len(rest) == 1 and not rest[0].startswith("-"):
        # The text speaks of a command and leaves its arguments out.
        assert rest[0] in sub_commands()
        return
    cli._parser().parse_args(rest)


def sub_commands() -> set[str]:
    (actions,) = (a.choices for a in cli._parser()._actions if isinstance(a.choices, dict))
    return set(actions)


def assert_runs(rest: list[str]) -> None:
    assert rest[0] == "-A"
    module, _, _ = rest[1].rpartition(".")
    assert (ROOT / rest[1].replace(".", "/")).with_suffix(".py").is_file(), rest[1]
    assert rest[2] in ("worker", "beat", "flower")
    if rest[2] == "worker":
        queues = rest[rest.index("-Q") + 1].split(",")
        for queue in queues:
            tasks = [task for task, q in routes.QUEUES.items() if q == queue]
            assert tasks
            assert {f"services.{task.split('.')[1]}" for task in tasks} == {module}


def assert_makes(rest: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in rest:
        name, is_variable, _ = word.partition("=")
        pattern = rf"\b{name} \?=|\$\({name}\)" if is_variable else rf"^{name}:.*##"
        assert re.search(pattern, text, re.MULTILINE), word


def assert_composes(rest: list[str]) -> None:
    assert rest[0] == "compose"
    for scaled in re.findall(r"--scale (\S+)=\d+", " ".join(rest)):
        assert scaled in own_services()
    if rest[1:2] == ["run"]:
        words = iter(rest[2:])
        for word in words:
            if word == "--volume":
                next(words)
            elif not word.startswith("--"):
                assert word == "cli"
                break
        assert_parses(list(words))


# ---- The command line's page


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    page = (ROOT / "docs" / "howto" / "operate.md").read_text(encoding="utf-8")
    section = page.split("## Exit codes")[1].split("\n## ")[0]
    told = re.findall(r"^\| (\d+) \|", section, re.MULTILINE)
    assert told == re.findall(r"^ +(\d+)  ", HELP, re.MULTILINE)


def test_every_sub_command_is_explained() -> None:
    text = "".join(p.read_text() for p in PAGES if p.parent.name == "howto")
    for name in sub_commands():
        assert f"penstock {name}" in text, name
