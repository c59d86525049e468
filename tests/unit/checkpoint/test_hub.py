"""Hub ids: the cache first, then the network where it is allowed. A server on this machine plays the hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from huggingface_hub import constants

from tests.published import base_model, default_export, small_model, write_folder
from x2sam_ros.checkpoint.convert import convert_checkpoint
from x2sam_ros.checkpoint.hub import find_path, is_hub_id
from x2sam_ros.checkpoint.load import save_model
from x2sam_ros.config import BASE_MODEL
from x2sam_ros.errors import CheckpointError
from x2sam_ros.model.x2sam import X2SAM

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories in folders, served as the hub serves them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self, urlsplit(self.path).path)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, path: str) -> None:
        head, _, rest = path.removeprefix("/api/models").strip("/").partition("/resolve/")
        repository = self.root.joinpath(*head.split("/")[:2])
        files = {str(p.relative_to(repository)): p.read_bytes() for p in repository.rglob("*") if p.is_file()}
        content, extra = None, {}
        if "/revision/" in path:
            content = json.dumps({"id": "x/y", "sha": COMMIT, "siblings": []}).encode()
        elif "/tree/" in path:
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in files.items()
            ]
            content = json.dumps(listed).encode()
        elif rest:
            name = rest.partition("/")[2]
            content = files.get(name)
            self.fetched += [name] if request.command == "GET" else []
            extra = {"ETag": f'"{etag(content or b"")}"', "X-Repo-Commit": COMMIT}
        request.send_response(404 if content is None or not repository.is_dir() else 200)
        for key, value in {**extra, "Content-Length": str(len(content or b""))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content or b"")


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_ids_are_told_from_paths() -> None:
    assert is_hub_id("hao9610/X2SAM") and is_hub_id("hao9610/X2SAM/x2sam_qwen3_vl_4b")
    assert not any(map(is_hub_id, ("zzz", "/a/b", "./a/b", "../a", "a/../b", "a//b", "a/b/", Path("a/b"))))


def test_a_model_is_downloaded_once_and_then_taken_from_the_cache(hub: Hub) -> None:
    folder = hub.root / "someone" / "segments"
    save_model(small_model(), folder)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    loaded = X2SAM.from_pretrained("someone/segments")
    assert torch.equal(loaded.bg_embeds.weight, small_model().bg_embeds.weight)
    assert set(hub.fetched) == {"config.json", "model.safetensors", "tokenizer.json", "manifest.json"}, "no code"
    hub.fetched.clear()
    hub.server.shutdown()
    X2SAM.from_pretrained("someone/segments")
    assert not hub.fetched


def test_export_and_base_are_downloaded_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    model = small_model()
    base = write_folder(hub.root.joinpath(*BASE_MODEL.split("/")), base_model(model), model)
    (base / "config.json").unlink()
    export = write_folder(hub.root / "someone" / "X2SAM" / "stage_3", default_export(model), model)
    (export / "tokenizer.json").unlink()
    report = convert_checkpoint("someone/X2SAM", tmp_path / "ours")
    assert report.plan.merged and set(report.files) == {"export", "base"}
    assert X2SAM.from_pretrained(tmp_path / "ours").config == model.config
    convert_checkpoint("someone/X2SAM/stage_3", tmp_path / "again", download=False)


def test_a_cache_without_weights_is_not_enough(hub: Hub, tmp_path: Path) -> None:
    base = write_folder(hub.root / "some" / "base", base_model(small_model()), small_model())
    assert not find_path("some/base", "base model", ["tokenizer.json"]).joinpath("model.safetensors").exists()
    with pytest.raises(CheckpointError, match=r"in the cache .*models--some--base; downloading was not allowed"):
        find_path("some/base", "base model", ["*.safetensors"], download=False)
    found = find_path("some/base", "base model", ["*.safetensors"])
    assert (found / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_download_that_was_interrupted_goes_on(hub: Hub) -> None:
    folder = hub.root / "some" / "shards"
    folder.mkdir(parents=True)
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(zip("ab", names))}))
    for name in names:
        (folder / name).write_bytes(name.encode())
    cached = find_path("some/shards", "model", ["*.safetensors"], ["*.json"]) / names[1]
    cached.unlink()
    found = find_path("some/shards", "model", ["*.safetensors"], ["*.json"])
    assert (found / names[1]).read_bytes() == names[1].encode()
    cached.unlink()
    with pytest.raises(CheckpointError, match="downloading was not allowed"):
        find_path("some/shards", "model", ["*.safetensors"], download=False)


def test_what_the_hub_lacks_gives_one_line(hub: Hub) -> None:
    (hub.root / "some" / "empty").mkdir(parents=True)
    (hub.root / "some" / "empty" / "README.md").touch()
    for given in ("some/absent", "some/empty", "some/empty/inside"):
        with pytest.raises(CheckpointError, match=r"no model some/\w+: looked in /.*downloading failed") as caught:
            find_path(given, "model", ["*.safetensors"])
        assert "\n" not in str(caught.value)
