"""Passwords and tokens stand in no params, no log and no message."""

import ast
import logging
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import MINIATURE, ROOT, SETTINGS, run_layers, write_params
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError

from rpg.config.loading import check_params
from rpg.pipeline.ledger import _repository
from rpg.utils.errors import UserError

PASSWORD = "hunter2"
SOURCES = sorted((ROOT / "rpg").rglob("*.py"))


@pytest.mark.parametrize("key", ["token", "password", "hf_token", "secret", "api_key"])
@pytest.mark.parametrize("block", [(), ("experiments", "mini"), ("experiments", "mini", "task")])
def test_params_have_no_place_for_secrets(key: str, block: tuple[str, ...]) -> None:
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": {**MINIATURE, "task": dict(MINIATURE["task"])}}}
    node = tree
    for name in block:
        node = node[name]
    node[key] = PASSWORD
    with pytest.raises(UserError, match=rf"{key}: unknown key") as error:
        check_params(tree)
    assert PASSWORD not in str(error.value)


def test_shipped_params_name_no_secret() -> None:
    words = (ROOT / "params.yaml").read_text().lower().replace("tokens:", "").split()
    assert not [word for word in words if word.startswith(("token:", "hf_", "password", "secret", "api_key"))]


def test_stages_print_nothing_of_the_environment(tmp_path: Path, monkeypatch, capfd) -> None:
    write_params(tmp_path)
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD"):
        monkeypatch.setenv(name, PASSWORD)
    run_layers(tmp_path, "zoo", "collect", "tokens")
    assert PASSWORD not in "".join(capfd.readouterr())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_reads_single_variables_and_no_token(source: Path) -> None:
    """The whole of the environment goes nowhere, and the hub's own library reads HF_TOKEN by itself."""
    tree = ast.parse(source.read_text())
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "environ":
            assert isinstance(parents[node], (ast.Subscript, ast.Attribute, ast.Compare)), ast.unparse(parents[node])
        if isinstance(node, ast.Call):
            assert not {"token", "use_auth_token"} & {keyword.arg for keyword in node.keywords}, ast.unparse(node)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_model_brings_code_and_each_is_a_folder_or_a_commit(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        trusted = given.get("trust_remote_code")
        assert trusted is None or (isinstance(trusted, ast.Constant) and trusted.value is False)
        if name == "from_pretrained":
            assert trusted is not None, ast.unparse(node)
            assert {"revision", "local_files_only"} & given.keys(), ast.unparse(node)
        if name == "snapshot_download":
            assert "revision" in given, ast.unparse(node)
        assert name != "hf_hub_download", ast.unparse(node)
        # pydantic has a function of that name, too.
        if name == "create_model" and ast.unparse(node.func) != "pydantic.create_model":
            off = isinstance(given["pretrained"], ast.Constant) and given["pretrained"].value is False
            assert off or source == ROOT / "rpg/tasks/fine_tuning/task.py", ast.unparse(node)


class Refusing(BaseHTTPRequestHandler):
    """A remote that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.mark.parametrize(
    "address",
    [
        "http://user:{0}@127.0.0.1:9/x",
        "http://user:{0}@127.0.0.1:{1}/x",
        "http://user:{0}@127.0.0.1:y/x",
        "no://u:{0}@h/x",
    ],
)
@pytest.mark.parametrize("action", ["push", "pull", "status"])
def test_ledger_does_not_say_the_password_of_a_remote(
    tmp_path: Path, monkeypatch, capfd, caplog, port: int, address: str, action: str
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init().close()
    write_params(tmp_path)
    Path("a.txt").write_text("hello")
    with _repository() as repo:
        repo.add("a.txt")
    if action != "push":
        for path in (path for path in Path(".dvc/cache").rglob("*") if path.is_file()):
            path.unlink()
    if action == "pull":
        Path("a.txt").unlink()
    url = address.format(PASSWORD, port)
    Path(".dvc/config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n")
    caplog.set_level(logging.DEBUG, "dvc")
    try:
        with _repository() as repo:
            repo.status(cloud=True) if action == "status" else getattr(repo, action)()
        failed = ""
    except UserError as error:
        failed = str(error)
    assert failed or action == "status"
    assert PASSWORD not in failed + "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", [DvcException, SCMError, ValueError, ImportError])
def test_url_in_an_error_of_dvc_is_said_without_its_password(tmp_path: Path, monkeypatch, kind: type) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init().close()
    write_params(tmp_path)
    with pytest.raises(UserError) as error, _repository():
        raise kind(f"ssh://me:{PASSWORD}@host/x and https://{PASSWORD}@host:1/a@b can't be reached")
    assert str(error.value) == "dvc: ssh://host/x and https://host:1/a@b can't be reached"
