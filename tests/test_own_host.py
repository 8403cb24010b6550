"""The proxies of the guides, as they are written there: real nginx and Caddy before the service."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector

from loadtests.service_process import free_port
from tests.kit.pages.browser import until
from tests.kit.pages.documents import GUIDES, README, code
from tests.kit.services.in_process import PERSON, Service, run_service
from tests.kit.stores.server import Server
from tests.kit.tools import need

HOST = "www.example.gov.vn"
OWN_HOST = GUIDES / "own-host.md"

NGINX = """
daemon off;
pid pid;
error_log stderr crit;
events {{}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  {server}
}}
"""
CADDY = "{{\n  admin off\n  grace_period 100ms\n}}\n{site}"

Configure = Callable[[str, int], str]


def nginx_below(service: str, port: int) -> str:
    (location,) = code(OWN_HOST, "nginx")
    return f"server {{ listen 127.0.0.1:{port}; {location.replace('127.0.0.1:8080', service)} }}"


def nginx_alone(service: str, port: int) -> str:
    (server,) = code(README, "nginx")
    return server.replace("listen 443 ssl", f"listen {port}").replace("127.0.0.1:8080", service)


def caddy_below(service: str, port: int) -> str:
    site, _ = code(OWN_HOST, "caddy")
    return site.replace(HOST, f"http://:{port}").replace("127.0.0.1:8080", service)


def caddy_alone(service: str, port: int) -> str:
    _, site = code(OWN_HOST, "caddy")
    return site.replace("count.example.vn", f"http://:{port}").replace("127.0.0.1:8080", service)


PROXIES: dict[str, tuple[str, Configure, str]] = {
    "nginx": ("nginx", nginx_below, "/thongke"),
    "nginx, a host of its own": ("nginx", nginx_alone, ""),
    "Caddy": ("caddy", caddy_below, "/thongke"),
    "Caddy, a host of its own": ("caddy", caddy_alone, ""),
}


@pytest.mark.parametrize(("program", "configure", "prefix"), PROXIES.values(), ids=PROXIES)
async def test_the_proxy_of_the_guide(
    valkey: Server, program: str, configure: Configure, prefix: str
) -> None:
    """Two visitors are two, on the proxy's own host; scripts and streams pass, metrics do not; a
    frame tells those who embed it an address that the proxy has."""
    async with run_service(valkey.url, ops_listen="127.0.0.1:0", base_path=prefix) as service:
        await service.site(origins=["self"])
        port = free_port()
        host = service.url.removeprefix("http://").removesuffix(prefix)
        configured = configure(host, port)
        with running(program, configured):
            url = f"http://127.0.0.1:{port}{prefix}"
            await until(lambda: answers(service, f"{url}/healthz"), program)
            counted = [await hit(f"{url}/w/portal", f"127.0.0.{client}") for client in (2, 3)]
            status = [await got(service, url, path) for path in ("/embed.js", "/metrics")]
            async with asyncio.timeout(5), service.client.get(f"{url}/w/portal/live") as stream:
                first = await stream.content.readline()
            async with service.client.get(f"{url}/w/portal/frame") as framed:
                (found,) = re.findall(r'<link[^>]* href="([^"]*)"', await framed.text())
            async with service.client.get(unescape(found)) as embedded:
                html = (await embedded.json())["html"]
    assert f'src="{url}/w/portal/frame"' in html
    assert [each["counted"] for each in counted] == [True, True]
    assert counted[-1]["today"] == {"pageviews": 2, "visits": 2, "visitors": 2}
    assert status == [200, 404]
    assert first.startswith(b"retry: ")


@contextmanager
def running(program: str, configured: str) -> Iterator[None]:
    """The proxy, which must find nothing wrong with what the guide says."""
    binary = str(need(program))
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        conf = Path(directory) / "conf"
        if program == "nginx":
            conf.write_text(NGINX.format(server=configured))
            run = [binary, "-p", directory, "-c", str(conf), "-e", "stderr"]
            check = [*run, "-t"]
        else:
            conf.write_text(CADDY.format(site=configured))
            which = ["--config", str(conf), "--adapter", "caddyfile"]
            run, check = [binary, "run", *which], [binary, "validate", *which]
        environment = {"HOME": directory}
        checked = subprocess.run(check, capture_output=True, text=True, env=environment)
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen(run, stderr=subprocess.DEVNULL, env=environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


async def hit(url: str, client: str) -> Any:
    """A view of a page on the website's host, from an address of loopback."""
    headers = {"Host": HOST, "Origin": f"https://{HOST}", "User-Agent": PERSON}
    async with (
        ClientSession(connector=TCPConnector(local_addr=(client, 0))) as session,
        session.post(url, data=b'{"p": "/"}', headers=headers) as answer,
    ):
        return await answer.json()


async def answers(service: Service, url: str) -> bool:
    try:
        async with service.client.get(url) as answer:
            return answer.status == 200
    except ClientError:
        return False


async def got(service: Service, url: str, path: str) -> int:
    async with service.client.get(url + path) as answer:
        return answer.status
