"""Reads what lies in deploy/: the images, the compose file, the manifests and the example settings."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from penstock.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


@dataclass
class Stage:
    """One FROM of a Dockerfile. `steps` are (instruction, the rest of its line)."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    parent: Stage | None = None

    def all(self, instruction: str) -> list[str]:
        """Its own and those it is built on, oldest first."""
        inherited = self.parent.all(instruction) if self.parent else []
        return inherited + [rest for name, rest in self.steps if name == instruction]

    def command(self) -> list[str]:
        """What runs without arguments."""
        entry = self.all("ENTRYPOINT")
        return [*(json.loads(entry[-1]) if entry else []), *json.loads(self.all("CMD")[-1])]

    def copied(self) -> list[str]:
        """What comes from the build's context."""
        return [
            source
            for rest in self.all("COPY")
            if "--from=" not in rest
            for source in shlex.split(rest)[:-1]
        ]


@cache
def stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            stage = found[name] = Stage(name, base, parent=found.get(base))
        elif stage is not None:
            stage.steps.append((instruction, rest.strip()))
    return found


@cache
def targets() -> dict[str, Stage]:
    """The stages that are images: they say what runs."""
    return {name: s for name, s in stages().items() if any(i == "CMD" for i, _ in s.steps)}


@cache
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def own_services() -> dict[str, dict[str, Any]]:
    """Compose's services that run our images."""
    return {name: s for name, s in compose()["services"].items() if "build" in s}


def service_command(name: str) -> list[str]:
    service = own_services()[name]
    target = targets()[service["build"]["target"]]
    if "command" not in service:
        return target.command()
    entry = target.all("ENTRYPOINT")
    return [*(json.loads(entry[-1]) if entry else []), *service["command"]]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@cache
def manifests() -> list[dict[str, Any]]:
    """As kustomize makes them: the workers with their patch."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    patch = yaml.safe_load((KUBERNETES / "worker-patch.yaml").read_text())["spec"]
    found = []
    for name in names:
        for document in yaml.safe_load_all((KUBERNETES / name).read_text()):
            component = document["metadata"].get("labels", {}).get("app.kubernetes.io/component")
            if component == "worker":
                _merge(document["spec"], patch)
            found.append(document)
    return found


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """Strategic merge as far as our patch needs it: containers by name, other lists whole."""
    for key, value in patch.items():
        if key == "containers":
            for container in value:
                same = next(c for c in into[key] if c["name"] == container["name"])
                _merge(same, container)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def pods() -> dict[str, dict[str, Any]]:
    """A pod's spec by the name of the Deployment or Job it belongs to."""
    return {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]
        for d in manifests()
        if d["kind"] in ("Deployment", "Job")
    }


def pod_command(pod: dict[str, Any]) -> list[str]:
    (container,) = pod["containers"]
    target = targets()[container["image"].removeprefix("penstock-")]
    if "args" in container:
        return [*json.loads(target.all("ENTRYPOINT")[-1]), *container["args"]]
    return container.get("command") or target.command()


@cache
def settings_variables() -> dict[str, list[FieldInfo]]:
    """Every variable that a settings class reads, with the fields that read it."""
    modules = ["penstock.settings"] + [
        f"services.{path.parent.name}.settings" for path in ROOT.glob("services/*/settings.py")
    ]
    found: dict[str, list[FieldInfo]] = {}
    for module in modules:
        for thing in vars(import_module(module)).values():
            if isinstance(thing, type) and issubclass(thing, Settings):
                for name, info in thing.model_fields.items():
                    found.setdefault(f"PENSTOCK_{name.upper()}", []).append(info)
    return found


@dataclass(frozen=True)
class Variable:
    name: str
    value: str
    #: Whether it is set as it stands, and not a default shown behind a "#".
    active: bool
    comment: str


@cache
def env_example() -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    comment: list[str] = []
    for line in (DEPLOY / "env.example").read_text().splitlines():
        if match := re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line):
            mark, name, value = match.groups()
            found[name] = Variable(name, value, not mark, " ".join(comment))
        elif line.startswith("# "):
            comment.append(line[2:])
        else:
            comment = []
    return found
