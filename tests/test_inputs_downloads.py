"""Downloads: what servers send that is too much, too slow, elsewhere or incomplete, for all modalities alike."""

import gzip
import io
import socket
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import PIL.Image
import pytest

from perceivers.preprocessors.audio_reading import audio_to_samples
from perceivers.preprocessors.image_processing_base_image_perceiver import read_pil_image
from perceivers.preprocessors.point_cloud_files import read_point_cloud
from perceivers.preprocessors.reading import DEFAULT_LIMITS, download, read_bytes
from tests.runs import run, save_model

pytestmark = pytest.mark.integration

CONTENT = bytes(range(256)) * 40


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.full((5, 7, 3), 60, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers a path by the method of its name."""

    def do_GET(self):
        name, _, argument = self.path.lstrip("/").partition("/")
        getattr(self, f"send_{name}", self.send_nothing)(argument)

    def log_message(self, *arguments):
        pass

    def answer(self, content=b"", status=200, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def endless(self, part, pause=0.0):
        try:
            while not self.server.is_closing:
                self.wfile.write(part)
                time.sleep(pause)
        except OSError:  # the client has gone
            pass

    def send_nothing(self, _):
        self.answer(b"<img src=x>", 404)

    def send_plain(self, _):
        self.answer(CONTENT, Content_Length=len(CONTENT))

    def send_asked(self, _):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.answer(f"{headers['accept-encoding']} {'authorization' in headers}".encode())

    def send_gzip(self, _):
        self.answer(gzip.compress(CONTENT), Content_Encoding="gzip")

    def send_deflate(self, _):
        self.answer(zlib.compress(CONTENT), Content_Encoding="Deflate")

    def send_gzipcut(self, _):
        self.answer(gzip.compress(CONTENT)[:-20], Content_Encoding="gzip")

    def send_gzipwrong(self, _):
        self.answer(CONTENT, Content_Encoding="gzip")

    def send_bomb(self, encoding):
        self.answer(gzip.compress(gzip.compress(bytes(2**20))), Content_Encoding=encoding.replace("+", ", "))

    def send_bigbomb(self, _):
        self.answer(self.server.bomb, Content_Encoding="gzip")

    def send_endless(self, _):
        self.answer()
        self.endless(bytes(2**16))

    def send_drip(self, _):
        self.answer(Content_Length=10**6)
        self.endless(b"x", 0.1)

    def send_headers(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.endless(b"x: y\r\n", 0.1)

    def send_silence(self, _):
        self.answer(b"a few bytes", Content_Length=1000)
        self.endless(b"", 0.1)

    def send_short(self, _):
        self.answer(CONTENT, Content_Length=len(CONTENT) + 1)

    def send_to(self, where):
        self.answer(status=302, Location=where)

    def send_loop(self, number):
        self.answer(status=307, Location=f"/loop/{int(number or 0) + 1}")

    def send_hops(self, number):
        if int(number):
            self.answer(status=301, Location=f"/hops/{int(number) - 1}")
        else:
            self.answer(CONTENT)

    def send_status(self, code):
        self.send_response_only(int(code), "\x1b[31mlook here")
        self.end_headers()

    def send_png(self, _):
        self.answer(png(), Content_Type="text/html")

    def send_page(self, _):
        self.answer(b"<!doctype html><title>Log in</title>", Content_Type="image/png")


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.is_closing = True, False
        compressor = zlib.compressobj(wbits=31)
        server.bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(2**7)) + compressor.flush()
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.is_closing = True
        server.shutdown()


@pytest.mark.parametrize("path", ["plain", "gzip", "deflate", "hops/1", "hops/5", "to//plain"])
def test_what_is_there_is_downloaded(address, path):
    assert read_bytes(f"{address}/{path}") == CONTENT


def test_neither_encodings_nor_a_login_are_offered(address, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert download(f"{address}/asked") == b"identity False"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "is out of reach: the server answers 404 Not Found"),
        ("status/500", "is out of reach: the server answers 500 Internal Server Error"),
        ("status/799", "is out of reach: the server answers 799"),
        ("status/304", "is out of reach: the server answers 304 Not Modified"),
        ("loop", "is out of reach: it leads from page to page more than 5 times"),
        ("hops/6", "is out of reach: it leads from page to page more than 5 times"),
        ("to/file:///etc/passwd", "is out of reach: it leads to 'file://"),
        ("to/ftp://127.0.0.1/a", "is out of reach: it leads to 'ftp://127.0.0.1/a'"),
        ("to/data:,a", "is out of reach: the server answers 302 Found"),
        ("to/http://[", "is out of reach: "),
        ("short", "is out of reach: "),
        ("gzipcut", "is incomplete: its encoding as gzip has no end"),
        ("gzipwrong", "is out of reach: Error -3"),
        ("bomb/br", "is encoded as 'br', which was not asked for"),
        ("bomb/gzip+gzip", "is encoded as 'gzip, gzip', which was not asked for"),
    ],
)
def test_what_cannot_be_downloaded_is_one_line_with_the_address(address, path, reason):
    with pytest.raises(ValueError) as caught:
        download(f"{address}/{path}")
    message = str(caught.value)
    assert message.startswith(f"'{address}/{path}' {reason}") and message.isprintable()


@pytest.mark.parametrize("path", ["endless", "bigbomb"])
def test_what_is_too_large_is_not_received(address, path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_MAX_DOWNLOAD_BYTES", "3000000")
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"too large: it has more than 3,000,000 bytes; .*PERCEIVERS_MAX_DOWNLOAD_BY"):
        download(f"{address}/{path}")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("path", "limit", "reason"),
    [
        ("drip", "PERCEIVERS_MAX_DOWNLOAD_SECONDS", "it takes more than 1 s"),
        ("headers", "PERCEIVERS_MAX_DOWNLOAD_SECONDS", "it takes more than 1 s"),
        ("silence", "PERCEIVERS_MAX_IDLE_SECONDS", "nothing came for 1 s"),
    ],
)
def test_the_time_has_limits_in_all_and_without_a_byte(address, path, limit, reason, monkeypatch):
    monkeypatch.setenv(limit, "1")
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"too slow: {reason}; .* {limit}"):
        download(f"{address}/{path}")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("value", ["0", "-1", "much", "1.5", ""])
@pytest.mark.parametrize("name", [name for name in DEFAULT_LIMITS if "INPUT" not in name])
def test_a_limit_is_a_positive_whole_number(address, name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"variable {name} must be a positive whole number, got '{value}'"):
        download(f"{address}/plain")


@pytest.mark.parametrize("url", ["http://", "http:///a", "http://127.0.0.1:99999/", "http://a b/", "https://\x00/"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match="out of reach") as caught:
        download(url)
    assert str(caught.value).isprintable()


def test_nobody_answers():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"is out of reach: .*refused"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/a.png")


def test_the_content_decides_and_not_what_the_server_calls_it(address):
    assert read_pil_image(f"{address}/png").size == (7, 5)
    with pytest.raises(ValueError, match="/page' is not an image"):
        read_pil_image(f"{address}/page")


@pytest.mark.parametrize(
    "read",
    [
        read_pil_image,
        audio_to_samples,
        lambda url: read_point_cloud(f"{url}/a.ply", 10, np.random.default_rng()),
    ],
    ids=["images", "audio", "points"],
)
def test_all_modalities_have_the_limits(address, read, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_MAX_DOWNLOAD_BYTES", "100000")
    with pytest.raises(ValueError, match=r"/endless.*' is too large: it has more than 100,000 bytes"):
        read(f"{address}/endless")


def test_predict_goes_on_after_a_download_that_fails(address, tmp_path, capsys):
    model = save_model(tmp_path / "model")
    urls = [f"{address}/{path}" for path in ("loop", "png", "missing")]
    assert run("predict", model, *urls) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2 and urls[1] in printed.out
    assert f"{urls[2]}: out of reach: the server answers 404 Not Found\n" in printed.err
