"""``python -m avaturn_async.testing`` runs the fake alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing

import aiohttp
import pytest
from aiohttp import web

from avaturn_async import AvaturnClient
from avaturn_async.testing.__main__ import main
from avaturn_async.webhooks import HmacSha256, WebhookRequest


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_it_says_where_it_listens_and_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"

    async def use() -> None:
        async with AvaturnClient("mine", base_url=url) as client:
            await client.create_user()
        async with aiohttp.ClientSession() as http, http.post(f"{url}/api/v1/users/new") as response:
            assert response.status == 401

    assert main(["--port", str(port), "--token", "mine"], until=use) == 0
    printed = capsys.readouterr().out
    assert f"export AVATURN_BASE_URL={url} AVATURN_API_TOKEN=mine" in printed


def test_webhooks_are_signed_with_the_secret_of_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[WebhookRequest] = []
    port, hook_port = _free_port(), _free_port()

    async def take(request: web.BaseRequest) -> web.Response:
        headers = tuple(request.raw_headers)
        taken.append(WebhookRequest(method=request.method, headers=headers, body=await request.read()))
        return web.Response()

    async def use() -> None:
        runner = web.ServerRunner(web.Server(take))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", hook_port).start()
        async with AvaturnClient("any", base_url=f"http://127.0.0.1:{port}") as client:
            user = await client.create_user()
            avatar = await client.new_avatar(user.id)
            form = aiohttp.FormData({"body-type": "male"})
            for name in ("image-frontal", "image-side-1", "image-side-2"):
                form.add_field(name, b"photo", filename="x.jpg", content_type="image/jpeg")
            async with aiohttp.ClientSession() as http, http.post(avatar.upload_url, data=form) as response:
                assert response.status == 200
            while not taken:
                await client.list_user_avatars(user.id)
        await runner.cleanup()

    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", "s3cret")
    options = ["--port", str(port), "--signature-header", "X-Sig"]
    options += ["--webhook-url", f"http://127.0.0.1:{hook_port}/hook", "--processing-delay", "0"]
    assert main([*options, "--seed", "1"], until=use) == 0
    HmacSha256("s3cret", header="X-Sig").verify(taken[0])
    assert "s3cret" not in capsys.readouterr().out


def test_it_ends_quietly_when_it_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    assert main(["--port", "0"], until=interrupted) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_port_that_is_taken_is_a_sentence_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["--port", str(taken.getsockname()[1])]) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_a_secret_on_the_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--secret", "s3cret"], ["--secret=s3cret"]):
        with pytest.raises(SystemExit) as ended:
            main(options)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "list of processes" in said
        assert "s3cret" not in said


@pytest.mark.parametrize("options", [["--webhook-url", "nowhere"], ["--port", "x"], ["--no-such"]])
def test_a_wrong_option_is_named(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_url_that_is_none_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("nowhere?key=s3cret", "http://[x?key=s3cret", "http://h:abc/?key=s3cret"):
        with pytest.raises(SystemExit):
            main(["--webhook-url", url])
        said = capsys.readouterr().err
        assert "--webhook-url: webhook_url must be a URL" in said
        assert "s3cret" not in said


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(
        option in printed for option in ("--port", "--webhook-url", "--secret-file", "--seed", "--token")
    )


def test_it_runs_as_a_module_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "avaturn_async.testing", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{url}/api/v1/users/new", method="POST", headers={"Authorization": "Bearer x"}
        )
        with urllib.request.urlopen(request) as response:  # noqa: S310 - loopback
            assert response.status == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
