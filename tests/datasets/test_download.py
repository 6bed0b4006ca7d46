"""Downloads against a server on this machine that behaves well and badly."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from geoeq.datasets import download as module
from geoeq.datasets.download import data_root, download, sha256_of

CONTENT = np.random.default_rng(0).bytes(300_000)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Mirror(BaseHTTPRequestHandler):
    """The path says how the server behaves: /good, /no-ranges, /missing, /wrong, /cut, /stall, /drip, ..."""

    def do_GET(self):
        kind, given = self.path.strip("/"), self.headers.get("Range")
        self.server.requests.append((kind, given))
        content = CONTENT[::-1] if kind == "wrong" else CONTENT + b"!" if kind == "longer" else CONTENT
        start = int(given.removeprefix("bytes=").rstrip("-")) if given and kind != "no-ranges" else 0
        if kind == "missing":
            self.send_error(404)
            return
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = start - 1 if kind == "other-range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if kind not in ("unsized", "unsized-cut"):
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if kind == "stall":
            self.wfile.write(content[start : start + 1000])
            self.server.released.wait(10)
        elif kind == "drip":
            while not self.server.released.wait(0.02):
                self.wfile.write(b"x")
        elif kind in ("cut", "unsized-cut"):
            self.wfile.write(content[start : start + 100_000])
        elif kind == "cut-at-once":
            self.wfile.write(b"")
        else:
            self.wfile.write(content[start:])

    def log_message(self, *_):
        """Says nothing."""


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that hangs up is what the tests want."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server(("127.0.0.1", 0), Mirror)
    server.requests, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(server, tmp_path):
    """Download from mirrors that behave as named."""

    def get(*kinds, size=SIZE, timeout=5.0, sha256=SHA256):
        urls = [f"http://127.0.0.1:{server.server_port}/{kind}" for kind in kinds]
        return download(urls, tmp_path / "below" / "file.bin", sha256, size=size, timeout=timeout)

    return get


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "below").iterdir())


@pytest.mark.parametrize("size", [None, SIZE])
@pytest.mark.parametrize("kind", ["good", "no-ranges", "unsized"])
def test_a_file_comes_whole_and_once(get, server, tmp_path, kind, size):
    path = get(kind, size=size)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == ["file.bin"]
    assert sha256_of(path) == SHA256
    assert get(kind, size=size) == path
    assert server.requests == [(kind, None)]


@pytest.mark.parametrize("bad", ["missing", "wrong", "longer", "cut-at-once", "stall", "drip", "other-range"])
def test_the_next_mirror_takes_over(get, server, tmp_path, bad):
    (tmp_path / "below").mkdir()
    if bad == "other-range":
        (tmp_path / "below" / "file.bin.part").write_bytes(CONTENT[:10])
    start = time.monotonic()
    path = get(bad, "good", timeout=0.3)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == ["file.bin"]
    assert time.monotonic() - start < 8
    assert server.requests[0][0] == bad
    assert server.requests[-1][0] == "good"


def test_nobody_there_is_passed_over(server, tmp_path):
    urls = ["http://127.0.0.1:9/file", f"http://127.0.0.1:{server.server_port}/good"]
    assert download(urls, tmp_path / "file.bin", SHA256).read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_where_it_broke(get, server):
    assert get("cut").read_bytes() == CONTENT
    assert server.requests == [("cut", None), ("cut", "bytes=100000-"), ("cut", "bytes=200000-")]


def test_an_unsized_one_too_if_the_size_is_known(get, server):
    with pytest.raises(ValueError, match="the content has SHA-256"):
        get("unsized-cut", size=None)
    server.requests.clear()
    assert get("unsized-cut").read_bytes() == CONTENT
    assert server.requests[1:] == [("unsized-cut", "bytes=100000-"), ("unsized-cut", "bytes=200000-")]


def test_an_interrupted_download_is_taken_up_by_the_next(get, server, tmp_path, monkeypatch):
    class Interrupted(module.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "tqdm", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            get("good")
    assert files(tmp_path) == ["file.bin.part"]
    had = (tmp_path / "below" / "file.bin.part").stat().st_size
    assert 0 < had < len(CONTENT)
    assert get("good").read_bytes() == CONTENT
    assert server.requests == [("good", None), ("good", f"bytes={had}-")]
    assert files(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("left", [CONTENT[:1000], CONTENT, CONTENT[:-1] + b"?", b"?" * 1000, CONTENT * 2])
@pytest.mark.parametrize("size", [None, SIZE])
@pytest.mark.parametrize("kind", ["good", "no-ranges"])
def test_whatever_an_earlier_attempt_left(get, tmp_path, left, size, kind):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file.bin.part").write_bytes(left)
    assert get(kind, size=size).read_bytes() == CONTENT
    assert files(tmp_path) == ["file.bin"]


def test_no_mirror_is_one_line_with_every_reason(get, tmp_path):
    with pytest.raises(ValueError, match="could not be downloaded") as error:
        get("missing", "wrong", "longer", "stall", timeout=0.2)
    text = str(error.value)
    assert "\n" not in text
    for reason in ("/missing: HTTP status 404", "/wrong: the content has SHA-256", "expected 300000", "/stall: "):
        assert reason in text
    assert "file.bin" not in files(tmp_path)
    with pytest.raises(ValueError, match="could not be downloaded"):
        get("wrong")
    assert files(tmp_path) == []


def test_a_file_of_another_content_is_not_touched(get, server, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"file\.bin must be the file with SHA-256 .* \(delete it"):
        get("good")
    assert (tmp_path / "below" / "file.bin").read_bytes() == b"mine"
    assert server.requests == []


def test_one_at_a_time_writes_the_file(get, server, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(get("cut").read_bytes())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [CONTENT] * 6
    assert len(server.requests) == 3
    assert files(tmp_path) == ["file.bin"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_only_on_a_terminal(get, monkeypatch, stream):
    monkeypatch.setattr("sys.stderr", stream())
    get("good")
    assert ("file.bin: " in sys.stderr.getvalue()) == (stream is Terminal)


def test_wrong_arguments_are_named(tmp_path):
    for arguments, message in [
        (([], SHA256), "urls must be a sequence of addresses"),
        (("http://here", SHA256), "urls must be a sequence of addresses"),
        ((["file:///etc/passwd"], SHA256), "urls must be http or https addresses"),
        ((["http://here"], "abc"), "sha256 must be 64 hexadecimal digits"),
    ]:
        with pytest.raises(ValueError, match=message):
            download(arguments[0], tmp_path / "file", arguments[1])
    with pytest.raises(ValueError, match="timeout must be positive"):
        download(["http://here"], tmp_path / "file", SHA256, timeout=0)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("GEOEQ_DATA", raising=False)
    assert data_root(None, "walks") == Path("data/walks")
    monkeypatch.setenv("GEOEQ_DATA", str(tmp_path))
    assert data_root(None, "walks") == tmp_path / "walks"
    assert data_root(None) == tmp_path
    assert data_root("mine", "walks") == Path("mine")
    monkeypatch.setenv("GEOEQ_DATA", "")
    assert data_root(None, "walks") == Path("data/walks")
