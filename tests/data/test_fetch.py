"""Downloads: whatever a server does, the file is right and whole, or it is not there and the reason is said."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import random
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvfl.config import ChecksumConfig, FetchConfig
from dvfl.data.fetch import Download, FetchError, fetch, fetch_all, remember
from dvfl.errors import UserError
from tests.data.archives import tgz_of
from tests.data.server import breaks_after, says, serving, stalls_after, trickles

SETTINGS = FetchConfig(backoff=0.0, retries=3, timeout=5)
BODY = random.Random(0).randbytes(600_000)
OTHER = random.Random(1).randbytes(600_000)
NAME = "/clips.bin"


def checksum(body: bytes, algorithm: str = "md5") -> ChecksumConfig:
    return ChecksumConfig(algorithm=algorithm, value=hashlib.new(algorithm, body).hexdigest(), published_by="the tests")


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running):
    running.files = {NAME: BODY}
    running.faults.clear()
    running.asked.clear()
    running.ranges = True
    return running


@pytest.fixture
def wanted(server, tmp_path):
    return Download(tmp_path / "archives/clips.bin", (server.url(NAME),), len(BODY), checksum(BODY))


def unknown(wanted: Download) -> Download:
    """Of which neither size nor checksum is published."""
    return Download(wanted.path, wanted.urls)


def left_over(path: Path) -> set[str]:
    """Files beside it but for locks."""
    return {file.name for file in path.parent.iterdir() if not file.name.startswith(".")}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_file_comes_whole_and_nothing_is_left_beside_it(server, wanted, algorithm):
    fetch(Download(wanted.path, wanted.urls, wanted.size, checksum(BODY, algorithm)), SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert left_over(wanted.path) == {"clips.bin"}


def test_what_is_there_is_verified_and_not_fetched_again(server, wanted):
    fetch(wanted, SETTINGS)
    fetch(wanted, SETTINGS)
    assert len(server.asked) == 1
    wanted.path.write_bytes(OTHER)
    with pytest.raises(FetchError, match=r"not the .* published by the tests; remove it"):
        fetch(wanted, SETTINGS)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("fault", [breaks_after(200_000), stalls_after(200_000, 0.6)], ids=["truncated", "stalled"])
def test_a_broken_body_is_resumed_where_it_broke(server, wanted, fault, known):
    server.faults[NAME] = [fault]
    fetch(wanted if known else unknown(wanted), SETTINGS.model_copy(update={"timeout": 0.3}))
    assert wanted.path.read_bytes() == BODY
    first, second = server.ranges_asked(NAME)
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 200_000


def test_a_server_that_ignores_ranges_starts_afresh(server, wanted):
    server.faults[NAME] = [breaks_after(300_000)]
    server.ranges = False
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY


def test_a_download_says_how_far_it_is_and_how_long_it_will_take(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("dvfl.progress.LOG_EVERY_SECONDS", 0)
    server.files = {f"/{name}.bin": bytes(4_000_000) for name in "ab"}
    for name in server.files:
        server.faults[name] = [trickles(0.02)]
    fetch_all(
        [Download(tmp_path / name[1:], (server.url(name),), 4_000_000) for name in server.files], SETTINGS, "toys"
    )
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"toys, MB: \d of 8, about \d+ s left", lines[len(lines) // 2])
    assert re.fullmatch(r"toys, MB: 8 of 8 done in [\d.]+ s", lines[-1])


def test_a_file_that_changed_meanwhile_starts_afresh(server, wanted):
    server.faults[NAME] = [breaks_after(300_000)]
    server.faults[NAME] += [says(500)] * 4
    with pytest.raises(FetchError):
        fetch(unknown(wanted), SETTINGS)
    assert left_over(wanted.path) == {"clips.bin.part", "clips.bin.part.json"}
    server.files[NAME] = OTHER
    fetch(unknown(wanted), SETTINGS)
    assert wanted.path.read_bytes() == OTHER


def test_a_server_that_sends_another_range_is_not_believed(server, wanted):
    server.faults[NAME] = [
        breaks_after(300_000),
        lambda handler, body: handler.answer(206, body, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}),
    ]
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert server.ranges_asked(NAME)[2] is None


def test_another_version_of_the_same_size_is_not_spliced(server, wanted):
    """By a server that sends the range of whatever it has now."""

    def ignores_if_range(handler, body):
        first = int(handler.headers["Range"][6:-1])
        headers = {"ETag": '"another"', "Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"}
        handler.answer(206, body[first:], headers)

    def changes(handler, body):
        breaks_after(300_000)(handler, body)
        server.files[NAME] = OTHER

    server.faults[NAME] = [changes, ignores_if_range]
    fetch(unknown(wanted), SETTINGS)
    assert wanted.path.read_bytes() == OTHER


def test_a_redirect_is_followed_and_resumed(server, wanted):
    server.files["/elsewhere.bin"] = BODY
    server.faults[NAME] = [says(302, Location="/elsewhere.bin")] * 2
    server.faults["/elsewhere.bin"] = [breaks_after(300_000)]
    fetch(unknown(wanted), SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert server.ranges_asked("/elsewhere.bin")[1] is not None


def test_a_tgz_that_is_called_a_compressed_body_stays_as_it_is(server, tmp_path):
    body = tgz_of({"a.txt": b"a" * 1000})
    server.faults["/a.tgz"] = [lambda handler, _: handler.answer(200, body, {"Content-Encoding": "x-gzip"})]
    fetch(Download(tmp_path / "a.tgz", (server.url("/a.tgz"),)), SETTINGS)
    assert (tmp_path / "a.tgz").read_bytes() == body


def test_416_where_all_is_there_and_where_it_is_not(server, wanted):
    part = wanted.path.with_name("clips.bin.part")
    part.parent.mkdir()
    part.write_bytes(BODY)
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY
    wanted.path.unlink()
    part.write_bytes(BODY + b"more")
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY


def test_500_then_200(server, wanted):
    server.faults[NAME] = [says(500), says(503, Retry_After="0"), says(429)]
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY


def test_a_pause_is_said_on_a_line_without_credentials(server, wanted, capsys):
    server.faults[NAME] = [says(503), says(500), breaks_after(300_000)]
    url = wanted.urls[0].replace("://", "://me:hidden@") + "?token=hidden"
    server.files[f"{NAME}?token=hidden"] = BODY
    server.faults[f"{NAME}?token=hidden"] = server.faults.pop(NAME)
    fetch(Download(wanted.path, (url,)), SETTINGS.model_copy(update={"backoff": 0.01}))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("http://***@127.0.0.1") for line in lines)
    assert lines[0].endswith(": answers 503 Service Unavailable, again in 0.01 s (1 of 3)")
    assert lines[1].endswith(": answers 500 Internal Server Error, again in 0.02 s (2 of 3)")
    assert lines[2].endswith(" bytes, again in 0.01 s") or "the connection broke" in lines[2]
    assert not any("hidden" in line for line in lines)


def test_pauses_grow_and_a_server_that_stays_broken_is_given_up(server, wanted):
    server.faults[NAME] = [says(500)] * 9
    begin = time.monotonic()
    with pytest.raises(FetchError, match="answers 500") as error:
        fetch(wanted, SETTINGS.model_copy(update={"backoff": 0.05}))
    assert time.monotonic() - begin > 0.05 + 0.1 + 0.2
    assert len(server.asked) == 1 + SETTINGS.retries
    assert "run the same command again" in str(error.value) and str(wanted.path) in str(error.value)
    assert not wanted.path.exists()


def test_as_long_as_bytes_come_it_goes_on(server, wanted):
    def a_little(handler, body):
        first = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        headers = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if first else {}
        handler.answer(206 if first else 200, body[first:], headers, sent=100_000)

    server.faults[NAME] = [a_little] * 8
    fetch(wanted, SETTINGS.model_copy(update={"retries": 0}))
    assert wanted.path.read_bytes() == BODY


def test_a_mirror_takes_over_after_404_and_with_what_is_there(server, wanted):
    server.files["/mirror.bin"] = BODY
    server.faults[NAME] = [breaks_after(300_000), says(404)]
    urls = (server.url(NAME), server.url("/mirror.bin"))
    fetch(Download(wanted.path, urls, wanted.size, wanted.checksum), SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert server.ranges_asked("/mirror.bin")[0].startswith("bytes=")


def test_without_a_checksum_a_mirror_begins_only_once_the_first_address_is_given_up(server, wanted):
    server.files["/mirror.bin"] = OTHER
    server.faults[NAME] = [breaks_after(300_000), says(503), says(503)]
    twice = Download(wanted.path, (*wanted.urls, server.url("/mirror.bin")))
    fetch(twice, SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert server.ranges_asked("/mirror.bin") == []
    wanted.path.unlink()
    server.faults[NAME] = [breaks_after(300_000)] + [says(503)] * 9
    fetch(twice, SETTINGS)
    assert wanted.path.read_bytes() == OTHER


def test_404_everywhere_says_so_for_each_address(server, wanted):
    urls = (server.url("/none.bin"), server.url("/neither.bin"))
    with pytest.raises(FetchError) as error:
        fetch(Download(wanted.path, urls), SETTINGS)
    assert all(f"{url}: answers 404 Not Found" in str(error.value) for url in urls)
    assert len(server.asked) == 2


def test_a_wrong_checksum_is_never_accepted(server, wanted):
    server.files[NAME] = OTHER
    with pytest.raises(FetchError, match=r"not the .* published by the tests"):
        fetch(wanted, SETTINGS)
    assert left_over(wanted.path) == set()


def test_a_beginning_of_another_file_is_thrown_away(server, wanted):
    part = wanted.path.with_name("clips.bin.part")
    part.parent.mkdir()
    part.write_bytes(OTHER[:100_000])
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY


def test_another_size_is_refused_before_the_body(server, wanted):
    server.files[NAME] = BODY + b"x"
    with pytest.raises(FetchError, match="600,001 bytes, not the 600,000 expected"):
        fetch(wanted, SETTINGS)


def test_without_a_published_checksum_the_first_one_seen_counts(server, wanted):
    record = wanted.path.with_name("clips.bin.sha256")
    sha256 = fetch(unknown(wanted), SETTINGS)
    assert not record.exists()  # nobody has read it yet
    remember(unknown(wanted), sha256)
    assert record.read_text() == f"{hashlib.sha256(BODY).hexdigest()}  clips.bin\n"
    wanted.path.unlink()
    server.files[NAME] = OTHER
    with pytest.raises(FetchError, match=r"not the one seen first, in .*clips\.bin\.sha256"):
        fetch(unknown(wanted), SETTINGS)
    assert not wanted.path.exists()
    record.unlink()
    fetch(unknown(wanted), SETTINGS)
    assert wanted.path.read_bytes() == OTHER


@pytest.mark.parametrize(
    ("name", "body", "what"),
    [
        ("clips.rar", b"\n<!DOCTYPE html><html><title>Log in</title>", "a web page"),
        ("train.csv", b"<html><body>moved</body></html>", "a web page"),
        ("clips.zip", BODY, "something else"),
        ("clips.tar.gz", BODY, "something else"),
    ],
)
def test_wrong_content_is_refused_at_its_first_bytes(server, tmp_path, name, body, what):
    server.files[f"/{name}"] = body
    with pytest.raises(FetchError, match=f"sends {what} instead of {name}.*open the address in a browser"):
        fetch(Download(tmp_path / name, (server.url(f"/{name}"),)), SETTINGS)
    assert not (tmp_path / name).exists()


def test_a_full_disk_is_noticed_before_writing(server, wanted, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(FetchError, match="free some space"):
        fetch(wanted, SETTINGS)
    assert left_over(wanted.path) <= {"clips.bin.part.json"}


def test_a_disk_that_fills_up_while_writing_keeps_what_is_there(server, wanted):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*clips\.bin\.part.*run the same command again"):
            fetch(wanted, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not wanted.path.exists()
    fetch(wanted, SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert server.ranges_asked(NAME)[1] is not None


def test_killed_and_run_again_it_goes_on(server, wanted):
    server.faults[NAME] = [trickles(0.1)]
    script = (
        "import sys; from pathlib import Path; from dvfl.config import FetchConfig; "
        "from dvfl.data.fetch import Download, fetch; "
        "fetch(Download(Path(sys.argv[1]), (sys.argv[2],)), FetchConfig())"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(wanted.path), wanted.urls[0]], env=os.environ | {"PYTHONPATH": str(root)}
    )
    part = wanted.path.with_name("clips.bin.part")
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not wanted.path.exists()
    fetch(unknown(wanted), SETTINGS)
    assert wanted.path.read_bytes() == BODY
    assert int(server.ranges_asked(NAME)[1][6:-1]) > 100_000


def test_a_certificate_that_does_not_verify_is_not_bypassed(server, wanted, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "certificate.pem"))
    with serving(context) as secure:
        secure.files[NAME] = BODY
        url = f"https://127.0.0.1:{secure.server_port}{NAME}"
        with pytest.raises(FetchError, match=r"its certificate does not verify.*ca-certificates"):
            fetch(Download(wanted.path, (url,), wanted.size, wanted.checksum), SETTINGS)
        assert secure.asked == []
        fetch(Download(wanted.path, (url, *wanted.urls), wanted.size, wanted.checksum), SETTINGS)
    assert wanted.path.read_bytes() == BODY


def self_signed(path: Path) -> Path:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_an_address_of_the_users_own_mirror(server, tmp_path):
    settings = SETTINGS.model_copy(update={"rewrite": {"https://owner.example/data/": server.url("/")}})
    fetch(Download(tmp_path / "clips.bin", ("https://owner.example/data/clips.bin",)), settings)
    assert (tmp_path / "clips.bin").read_bytes() == BODY


def test_several_at_once_and_one_that_fails_does_not_stop_the_others(server, tmp_path, capsys):
    names = [f"part_{number}" for number in range(6)]
    server.files |= {f"/{name}": BODY for name in names}
    for name in names:
        server.faults[f"/{name}"] = [trickles(0.02)]
    wanted = [Download(tmp_path / name, (server.url(f"/{name}"),)) for name in [*names, "none"]]
    begin = time.monotonic()
    with pytest.raises(FetchError, match="none could not be fetched"):
        fetch_all(wanted, SETTINGS.model_copy(update={"connections": 6}), "Parts")
    assert time.monotonic() - begin < 6 * 10 * 0.02
    assert all((tmp_path / name).read_bytes() == BODY for name in names)
    fetch_all(wanted[:-1], SETTINGS, "Parts")
    assert "Parts, MB: " in capsys.readouterr().err
