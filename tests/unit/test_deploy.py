"""What deploy/ says fits the code: files, targets, commands, queues, variables, mounts."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from importlib import metadata
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from penstock import routes
from tests.deployment import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    compose,
    env_example,
    manifests,
    option,
    own_services,
    pod_command,
    pods,
    service_command,
    settings_variables,
    stages,
    targets,
)

SERVICES = {path.parent.name for path in ROOT.glob("services/*/tasks.py")} - {"runtime"}
# What the images' lock files must hold beyond the core: the extras of pyproject.toml.
EXTRAS = {
    "jobs": {"payload-key"},
    "extract": {"extract", "payload-key"},
    "upload": {"upload", "payload-key"},
    "export": {"export", "payload-key"},
    "flower": {"flower"},
}
# Variables that are not Penstock's: what the two server images read, Celery's, and Flower's.
OTHERS = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REMAP_SIGTERM", "FLOWER_BASIC_AUTH"}
WORKER_PODS = [name for name, pod in pods().items() if pod["containers"][0]["name"] == "worker"]


def assert_runs(command: list[str]) -> set[str]:
    """The command names what there is; returns the queues that it serves."""
    if command[0] == "penstock":
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        assert "penstock" in scripts
        return set()
    assert command[:2] == ["celery", "-A"], command
    package, service, module = command[2].split(".")
    assert (package, module) == ("services", "app")
    assert (ROOT / "services" / service / "app.py").is_file(), command
    if command[3] in ("beat", "flower"):
        assert service == "jobs"
        return set()
    assert command[3] == "worker"
    assert option(command, "-n").endswith("@%h"), "replicas need names of their own"
    queues = set(option(command, "-Q").split(","))
    assert queues <= set(routes.ALL_QUEUES), command
    served = {
        task.split(".")[1] for task, queue in routes.QUEUES.items() if queue in queues
    }  # penstock.<service>....
    assert served == {service}, command
    return queues


# ---- The Dockerfile


def test_every_service_has_an_image_and_there_is_one_for_flower_and_the_command_line() -> None:
    assert targets().keys() == SERVICES | {"flower", "cli"}


@pytest.mark.parametrize("name", stages())
def test_what_a_stage_copies_exists_and_is_not_ignored(name: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    for source in stages()[name].copied():
        assert (ROOT / source).exists(), source
        assert any(source == a or source.startswith(f"{a}/") for a in allowed), source
    for rest in stages()[name].all("COPY") + stages()[name].all("RUN"):
        for other in re.findall(r"from=(\S+?)(?:,|\s)", rest):
            assert other in list(stages())[: list(stages()).index(name)], other


def test_what_must_not_leave_the_machine_is_ignored() -> None:
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    ]
    for path in (".git", "deploy/.env", "deploy/connections.toml", "deploy/secrets/key", ".venv"):
        assert not any(fnmatch.fnmatch(path, a) or path.startswith(f"{a}/") for a in allowed), path
    ignored_by_git = (DEPLOY / ".gitignore").read_text().split()
    assert {"/.env", "/connections.toml", "/secrets/"} <= set(ignored_by_git)


@pytest.mark.parametrize("name", targets())
def test_an_image_runs_its_own_service_as_nobody_special(name: str) -> None:
    stage = targets()[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage.all("USER")[-1])
    for rest in stage.all("CMD") + stage.all("ENTRYPOINT"):
        assert all(isinstance(part, str) for part in json.loads(rest)), "exec form"
    assert any("REMAP_SIGTERM=SIGQUIT" in rest for rest in stage.all("ENV"))
    assert_runs(stage.command())
    services = {source.split("/")[1] for source in stage.copied() if source.startswith("services/")}
    own = {"jobs"} if name == "flower" else {name} & SERVICES
    assert services == {"__init__.py", "runtime"} | own


@pytest.mark.parametrize("name", targets())
def test_an_image_has_a_check_in_exec_form_or_says_that_it_has_none(name: str) -> None:
    check = targets()[name].all("HEALTHCHECK")[-1]
    if name == "cli":
        assert check == "NONE"
        return
    argv = json.loads(check.split("CMD ", 1)[1])
    assert argv[0] == "python"
    assert int(re.search(r"--interval=(\d+)s", check)[1]) >= 60
    if name in SERVICES:
        assert argv[1] == "/app/healthy.py"
        assert "deploy/healthy.py" in targets()[name].copied()


def test_packages_come_from_hashed_locks_and_nothing_secret_is_set() -> None:
    for stage in stages().values():
        for instruction, rest in stage.steps:
            if instruction == "RUN" and "pip install" in rest:
                assert "--no-deps" in rest
                assert "--require-hashes" in rest or "--no-index" in rest
            if instruction in ("ENV", "ARG"):
                for name in re.findall(r"(\w+)=", rest):
                    assert not re.search(r"TOKEN|SECRET|PASSWORD|_KEY|_URL|AUTH", name), name


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_holds_what_its_image_needs(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    pinned = {n.lower() for n in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", text, re.MULTILINE)}
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[lock]:
        wanted += project["optional-dependencies"][extra]
    # What kombu imports for Redis comes with an extra of its own; without it no worker starts.
    wanted += [line for line in metadata.requires("kombu") if line.endswith('extra == "redis"')]
    missing = {Requirement(line).name.lower() for line in wanted} - pinned
    assert not missing, f"requirements/{lock}.txt lacks {sorted(missing)}"
    pins = re.findall(r"^\S+==.*(?:\n .*)*", text, re.MULTILINE)
    assert all("--hash=sha256:" in pin for pin in pins)


# ---- compose.yaml


def test_the_workers_of_compose_serve_every_queue_once() -> None:
    served = [
        queue
        for name, service in own_services().items()
        if service.get("profiles") != ["cli"]
        for queue in assert_runs(service_command(name))
    ]
    assert sorted(served) == sorted(routes.ALL_QUEUES)


def test_compose_builds_targets_that_exist() -> None:
    for service in own_services().values():
        build = service["build"]
        assert (DEPLOY / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert build["target"] in targets()
    assert {s["build"]["target"] for s in own_services().values()} == targets().keys()


def test_compose_names_variables_that_somebody_reads() -> None:
    for name, service in compose()["services"].items():
        for variable in service.get("environment", {}):
            assert variable in settings_variables().keys() | OTHERS, f"{name}: {variable}"
    asked = re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())
    assert set(asked) <= env_example().keys()


def test_every_worker_has_what_workers_need() -> None:
    needed = {
        name
        for name, fields in settings_variables().items()
        if any(field.is_required() for field in fields)
    }
    assert {name for name, v in env_example().items() if v.active} >= needed
    for name, service in own_services().items():
        command = service_command(name)
        if command[3:4] == ["worker"]:
            assert service["env_file"] == [".env"], name
            (secret,) = service["secrets"]
            where = service["environment"]["PENSTOCK_CONNECTIONS"]
            assert where == f"/run/secrets/{secret['target']}", name
        elif command[0] == "celery":
            assert needed <= service["environment"].keys(), name


def test_what_compose_mounts_exists_or_has_an_example() -> None:
    examples = {".env": "env.example", "connections.toml": "connections.example.toml"}
    files = [secret["file"] for secret in compose()["secrets"].values()]
    for service in compose()["services"].values():
        files += service.get("env_file", [])
        for secret in service.get("secrets", []):
            assert secret["source"] in compose()["secrets"]
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose()["volumes"]
    for file in files:
        assert (DEPLOY / examples.get(file, file)).is_file(), file


def test_compose_starts_things_in_an_order_that_ends() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"], f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert service_command(other) == ["penstock", "init"]


def test_redis_keeps_what_it_has_and_only_flower_is_seen_from_outside() -> None:
    services = compose()["services"]
    command = services["redis"]["command"]
    assert option(command, "--appendonly") == "yes"
    assert option(command, "--appendfsync") == "everysec"
    assert option(command, "--maxmemory-policy") == "noeviction"
    ports = {name: s["ports"] for name, s in services.items() if "ports" in s}
    assert ports == {"flower": ["127.0.0.1:5555:5555"]}
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith(
        "${FLOWER_BASIC_AUTH:?"
    )


def test_a_worker_has_more_time_to_stop_than_its_soft_shutdown_takes() -> None:
    source = (ROOT / "services" / "runtime" / "app.py").read_text()
    soft = float(re.search(r"worker_soft_shutdown_timeout=([\d.]+)", source)[1])
    for name, service in own_services().items():
        if service_command(name)[3:4] == ["worker"]:
            assert float(service["stop_grace_period"].removesuffix("s")) >= 2 * soft, name
    for name in WORKER_PODS:
        assert pods()[name]["terminationGracePeriodSeconds"] >= 2 * soft, name


# ---- Kubernetes


def test_kustomize_names_every_file_and_every_image() -> None:
    document = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    named = {*document["resources"], *(p["path"] for p in document["patches"])}
    assert named == {p.name for p in KUBERNETES.iterdir()} - {"kustomization.yaml"}
    used = {pod["containers"][0]["image"] for pod in pods().values()}
    assert {image["name"] for image in document["images"]} == used
    assert used == {f"penstock-{target}" for target in targets()}


def test_kubernetes_runs_what_compose_runs() -> None:
    from_compose = {
        f"penstock-{name}": service_command(name) for name in own_services() if name != "cli"
    }
    assert {name: pod_command(pod) for name, pod in pods().items()} == from_compose
    served = [queue for pod in pods().values() for queue in assert_runs(pod_command(pod))]
    assert sorted(served) == sorted(routes.ALL_QUEUES)


def test_the_manifests_names_fit_each_other() -> None:
    head = (KUBERNETES / "kustomization.yaml").read_text()
    secrets = set(re.findall(r"create secret generic (\S+)", head))
    (config,) = (d for d in manifests() if d["kind"] == "ConfigMap")
    assert config["data"].keys() <= settings_variables().keys()
    assert all(isinstance(value, str) for value in config["data"].values())
    for variable in re.findall(r"--from-literal=(\w+)", head):
        assert variable in settings_variables().keys() | OTHERS
    assert _references("secretRef", "secretKeyRef", "secret") == secrets
    assert _references("configMapRef") == {config["metadata"]["name"]}
    for document in manifests():
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (beat,) = (d for d in manifests() if d["metadata"]["name"] == "penstock-beat")
    assert beat["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_locked_down_and_knows_its_variables(name: str) -> None:
    pod = pods()[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for variable in container.get("env", []):
        assert variable["name"] in settings_variables().keys() | OTHERS
    if name in WORKER_PODS:
        assert {"name": "REMAP_SIGTERM", "value": "SIGQUIT"} in container["env"]
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"] == ["python", "/app/healthy.py"]
        (config,) = (d for d in manifests() if d["kind"] == "ConfigMap")
        folder = config["data"]["PENSTOCK_CONNECTIONS"].rsplit("/", 1)[0]
        assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]


def _references(*keys: str) -> set[str]:
    """Names of the Secrets or ConfigMaps that any pod refers to."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key in keys:
                if isinstance(node.get(key), dict):
                    found.add(node[key].get("name") or node[key]["secretName"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(list(pods().values()))
    return found
