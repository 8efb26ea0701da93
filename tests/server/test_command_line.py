"""The command line as a whole: wrong use, exit codes, Ctrl-C, and output on terminals, pipes and narrow encodings."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.commands import SECRET, Commands, command_line, raw_server, serving_process

from avaturn_async import __version__
from avaturn_async.cli import main

HMAC = ["--scheme", "hmac", "--header", "X-Sig"]
RECORDED = (
    b'{"at": "", "peer": "", "method": "POST", "path": "/", "query": "", "headers": [["X", "y"]], "body": "{}"}\n'
)


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """End a command that listens although it should have refused its options."""

    def fail(*_: object) -> None:
        raise AssertionError("the command does not end")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["lissten"], "lissten"),
        (["listen"], "--scheme"),
        (["listen", "--scheme", "none"], "none"),
        (["listen", "--scheme", "hmac"], "--scheme hmac needs --header"),
        (["listen", "--scheme", "header"], "--scheme header needs --header"),
        (["listen", "--scheme", "basic"], "--scheme basic needs --user"),
        (["listen", "--scheme", "basic", "--user", "u", "--header", "X"], "--header has no meaning for --scheme basic"),
        (["send", "http://h/", "--timestamp-header", "T"], "--timestamp-header has no meaning without --scheme"),
        (["send", "http://h/", "--secret-file", os.devnull], "--secret-file has no meaning without --scheme"),
        (["send", "http://h/", "--secret-env", "X"], "--secret-env has no meaning without --scheme"),
        (["listen", *HMAC, "--template", "x"], "template must hold"),
        (["listen", *HMAC, "--secret", SECRET], "visible in the list of processes"),
        (["listen", *HMAC, f"--secret={SECRET}"], "visible in the list of processes"),
        (["fake", "--secret", SECRET], "visible in the list of processes"),
        (["listen", *HMAC, "--secret-env", "NOT_SET"], "NOT_SET is not set: put the secret there"),
        (["fake", "--secret-env", "NOT_SET"], "NOT_SET is not set: put the secret there"),
        (["listen", *HMAC, "--secret-env", "BYTES"], "BYTES is not UTF-8"),
        (["listen", *HMAC, "--secret-env", "BLANK"], "blank"),
        (["fake", "--secret-env", "BLANK"], "blank"),
        (["listen", *HMAC, "--secret-file", "/nowhere"], "the secret in /nowhere: No such file or directory"),
        (["listen", *HMAC, "--secret-file", sys.executable], "is not UTF-8"),
        (["listen", "--scheme", "standard"], "whsec_"),
        (["listen", "--port", "65536", *HMAC], "must be a number from 0 to 65535"),
        (["fake", "--port", "x"], "must be a number from 0 to 65535"),
        (["listen", "--path", "avaturn", *HMAC], "must be a path such as /avaturn"),
        (["listen", "--path", "/{x}", *HMAC], "must be a path such as /avaturn"),
        (["listen", "--path", "/a%20b", *HMAC], "must be a path such as /avaturn"),
        (["send", f"localhost:80?k={SECRET}"], "must be a URL such as"),
        (["send", f"http://[{SECRET}"], "must be a URL such as"),
        (["send", f"http://xn--/?k={SECRET}"], "must be a URL such as"),
        (["fake", "--webhook-url", f"h:1/?k={SECRET}"], "--webhook-url: must be a URL such as"),
        (["send", f"http://u:{SECRET}@h/"], "must have no user or password"),
        (["send", "http://h/", "--timeout", "soon"], "must be a number of seconds"),
        (["send", "http://h/", "--timeout", "inf"], "must be a number of seconds"),
        (["fake", "--processing-delay", "-1"], "must be a number of seconds"),
        (["replay", "f", "http://h/", "--line", "0"], "must be a number from 1 "),
        (["record", "f", "--answer", "99"], "must be a number from 200 to 599"),
        (["send", "http://h/", "--avatar-id", "{x}"], "must be a UUID, such as"),
        (["send", "http://h/", "--body", "/nowhere"], "cannot read /nowhere"),
        (["fake", "--signature-header", "a b"], "name of a header"),
    ],
    ids=str,
)
def test_wrong_use_is_a_message_without_secrets_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLANK", "  ")
    monkeypatch.setenv("BYTES", "\udcff\udcfe")
    with pytest.raises(SystemExit) as ended:
        main(argv)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert message in " ".join(captured.err.split())
    assert SECRET not in captured.err
    assert not captured.out


def test_scheme_without_a_secret_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AVATURN_WEBHOOK_SECRET")
    with pytest.raises(SystemExit, match="2"):
        main(["listen", *HMAC])
    assert "AVATURN_WEBHOOK_SECRET is not set: put the secret there" in " ".join(capsys.readouterr().err.split())


def test_version_and_help_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    command = command_line("--version")
    version = subprocess.run(command, capture_output=True, text=True, check=True)
    assert version.stdout == f"avaturn_async {__version__}\n"
    for argv in ([], *([name] for name in ("listen", "record", "replay", "send", "failed", "retry", "fake"))):
        with pytest.raises(SystemExit, match="0"):
            main([*argv, "--help"])
        assert "Exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["record", "fake", "listen"])
async def test_address_that_is_not_available_is_a_message_and_exit_code_1(command: str, tmp_path: Path) -> None:
    argv = [command, *{"record": [str(tmp_path / "f")], "fake": [], "listen": HMAC}[command]]
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, Commands() as commands:
        port = taken.getsockname()[1]
        in_use = await commands.run(*argv, "--port", str(port))
        unknown = await commands.run(*argv, "--host", "nowhere.invalid", "--port", "0")
    assert (in_use.code, in_use.out) == (1, [])
    assert in_use.err == [f"error: cannot listen on 127.0.0.1:{port}: Address already in use"]
    assert unknown.code == 1
    assert unknown.err[0].startswith("error: cannot listen on nowhere.invalid:0: ")


def test_ctrl_c_ends_listen_with_130_and_without_a_traceback() -> None:
    with serving_process("listen", *HMAC) as (process, url):
        assert main(["send", url, *HMAC]) == 0
        assert main(["send", url]) == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "avatar.ready" in out
    assert "\x1b" not in out
    assert "401: header x-sig missing" in err
    assert "Traceback" not in err
    assert SECRET not in out + err


def test_ctrl_c_ends_record_with_130(tmp_path: Path) -> None:
    with serving_process("record", str(tmp_path / "f")) as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


@pytest.mark.parametrize("command", ["send", "replay"])
def test_ctrl_c_ends_a_command_that_waits_for_a_response(command: str, tmp_path: Path) -> None:
    file = tmp_path / "recorded"
    file.write_bytes(RECORDED)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        argv = command_line(command, *([url] if command == "send" else [str(file), url]))
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(4) == b"POST"
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


@pytest.mark.parametrize(
    "argv",
    [
        command_line("send", "http://127.0.0.1:9/", "--body"),
        command_line("send", "http://127.0.0.1:9/", *HMAC, "--secret-file"),
        command_line("--secret-file", module="avaturn_async.testing"),
    ],
    ids=lambda argv: " ".join(argv[2:]),
)
def test_ctrl_c_ends_a_command_that_reads_a_pipe(argv: list[str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # In development mode Python complains of the file that it had just opened when the signal came.
    env = {**os.environ, "PYTHONDEVMODE": ""}
    with subprocess.Popen([*argv, str(pipe)], stderr=subprocess.PIPE, text=True, env=env) as process, pipe.open("wb"):
        # It opened the pipe, since otherwise we could not have.
        err = interrupt(process)
    assert (process.returncode, err) == (130, "")


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C until the process ends: Python handles a signal between two of its own steps.

    A signal after the last step and before the system call that waits, a few microseconds, is handled after the call.
    """
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    raise AssertionError("Ctrl-C does not end the process")


def test_ctrl_c_while_a_command_prints_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def flush(self) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["listen", "--port", "0", *HMAC]) == 130


def test_reader_that_closes_the_pipe_does_not_end_listen() -> None:
    with serving_process("listen", *HMAC) as (process, url):
        assert process.stdout is not None
        process.stdout.close()
        assert [main(["send", url, *HMAC]) for _ in range(2)] == [0, 0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


async def test_output_to_a_closed_pipe_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        async with raw_server() as (port, requests):
            assert await asyncio.to_thread(main, ["send", f"http://127.0.0.1:{port}"]) == 0
    assert len(requests) == 1


async def test_output_that_cannot_be_written_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    async with raw_server() as (port, _):
        with pytest.MonkeyPatch.context() as patched, os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as stdout:
            patched.setattr(sys, "stdout", stdout)
            assert await asyncio.to_thread(main, ["send", f"http://127.0.0.1:{port}"]) == 1
    assert "cannot write to standard output: No space left on device" in capsys.readouterr().err


async def test_closed_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    async with raw_server() as (port, requests):
        assert await asyncio.to_thread(main, ["send", f"http://127.0.0.1:{port}"]) == 0
    assert len(requests) == 1


@pytest.mark.parametrize("has_rich", [True, False], ids=["rich", "no rich"])
async def test_output_on_a_terminal_is_colored_if_rich_is_installed(
    *, has_rich: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    body = tmp_path / "body"
    body.write_bytes(b"[b]")
    master, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        async with raw_server() as (port, _):
            await asyncio.to_thread(main, ["send", f"http://127.0.0.1:{port}", "--body", str(body)])
        line = os.read(master, 1000)
    os.close(master)
    assert line.startswith(b"\x1b[32m3 bytes: 200" if has_rich else b"3 bytes: 200\r\n")


async def test_markup_of_rich_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    master, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        async with raw_server() as (port, _):
            await asyncio.to_thread(main, ["send", f"http://127.0.0.1:{port}", "--user-id", "[b]:smile:[/b]"])
        line = os.read(master, 1000)
    os.close(master)
    assert b'"user_id":"[b]:smile:[/b]"' in line


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_the_encoding_lacks_are_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setenv("PYTHONUTF8", "0")
    command = command_line("record", str(tmp_path / "\u0416"), "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b"/\\u0416\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
