import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tractbench.errors import ConfigError, DamagedFileError, DownloadError
from tractbench.io.cache import cache_dir
from tractbench.io.download import download
from tractbench.progress import Progress

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A server of one file that can misbehave: forget ranges, change its version, hang up early."""

    def __init__(self):
        self.content, self.tag, self.ranges, self.cut = CONTENT, '"one"', True, None
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(dict(self.headers))
                if self.path != "/file.bin":
                    self.send_error(404)
                    return
                start = 0
                wanted = self.headers.get("Range")
                if outer.ranges and wanted and self.headers.get("If-Range") == outer.tag:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    if start > len(outer.content):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                if outer.tag:
                    self.send_header("ETag", outer.tag)
                self.end_headers()
                self.wfile.write(body[: outer.cut])

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/file.bin"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert download(server.url, path, SHA256, Progress()) == SHA256
    assert path.read_bytes() == CONTENT
    assert download(server.url, path, SHA256, Progress()) == SHA256
    assert download(server.url, path, None, Progress()) == SHA256
    assert len(server.asked) == 1
    assert names(path.parent) == ["file.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    path, server.cut = tmp_path / "file.bin", 3_000_000
    with pytest.raises(DownloadError, match="goes on where it stopped") as caught:
        download(server.url, path, SHA256, Progress())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    server.cut = None
    assert download(server.url, path, SHA256, Progress()) == SHA256
    assert server.asked[1]["Range"] == "bytes=3000000-"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("change", [{"tag": '"two"'}, {"ranges": False}, {"tag": None}, {"tag": 'W/"one"'}])
def test_a_changed_file_or_a_server_without_ranges_begins_again(server, tmp_path, change):
    path, server.cut = tmp_path / "file.bin", 3_000_000
    if "two" not in str(change.get("tag")):
        vars(server).update(change)
    with pytest.raises(DownloadError):
        download(server.url, path, SHA256, Progress())
    server.cut = None
    vars(server).update(change)
    assert download(server.url, path, SHA256, Progress()) == SHA256
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    path, server.cut = tmp_path / "file.bin", 3_000_000
    with pytest.raises(DownloadError):
        download(server.url, path, None, Progress())
    server.content, server.cut = CONTENT[:1000], None
    assert download(server.url, path, None, Progress()) == hashlib.sha256(CONTENT[:1000]).hexdigest()


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    with pytest.raises(DamagedFileError, match="another mirror"):
        download(server.url, tmp_path / "file.bin", "0" * 64, Progress())
    assert names(tmp_path) == []


def test_a_file_that_is_there_with_a_wrong_hash_is_named(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"other")
    with pytest.raises(DamagedFileError, match="delete it"):
        download(server.url, tmp_path / "file.bin", SHA256, Progress())
    assert server.asked == []


def test_offline_says_what_to_put_where(tmp_path):
    path = tmp_path / "file.bin"
    with pytest.raises(DownloadError) as caught:
        download("http://127.0.0.1:9/file.bin", path, None, Progress())
    assert "http://127.0.0.1:9/file.bin" in str(caught.value)
    assert f"put it at {path}" in str(caught.value)
    assert names(tmp_path) == []


def test_a_missing_file_is_reported(server, tmp_path):
    with pytest.raises(DownloadError, match="Not Found"):
        download(server.url + "x", tmp_path / "file.bin", None, Progress())


def test_only_addresses_are_fetched(tmp_path):
    with pytest.raises(ConfigError, match="https://"):
        download("ftp://x/y", tmp_path / "y", None, Progress())


def test_a_file_address_is_a_mirror(tmp_path):
    (tmp_path / "there").write_bytes(CONTENT)
    assert download((tmp_path / "there").as_uri(), tmp_path / "here", SHA256, Progress()) == SHA256


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("TRACTBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "tractbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_dir()) == "/x/tractbench"
    monkeypatch.setenv("TRACTBENCH_CACHE", "/y")
    assert str(cache_dir()) == "/y"
