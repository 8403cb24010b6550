"""What `live="auto"` does by the protocol that the page has: a stream over HTTP/2, polls over 1.1.

A real nginx ends TLS before the real service, as a website's own proxy does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import TWO_LINES, host_page, until
from tests.kit.pages.embedding import equal
from tests.kit.services.in_process import run_service
from tests.kit.stores.node import places, wait_until
from tests.kit.stores.server import Server
from tests.kit.tools import need

pytestmark = pytest.mark.asyncio(loop_scope="module")

START_S = 20.0
OTHER = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
SCRIPT = "performance.getEntriesByType('resource').find(({name}) => /embed/.test(name))"
# Playwright's clock would stand in for what tells the protocol, so only long waits are shortened.
HURRY = """
const wait = setTimeout;
setTimeout = (then, ms, ...rest) => wait(then, ms > 20000 ? 1000 : ms, ...rest);
"""
NGINX = """
daemon off; pid pid; error_log stderr; events {{ }}
http {{
  access_log off; client_body_temp_path b; proxy_temp_path p;
  fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  server {{
    listen 127.0.0.1:{port} ssl{http2};
    ssl_certificate cert; ssl_certificate_key key;
    location / {{
      proxy_pass {service}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""


@contextmanager
def tls_proxy(service: str, http2: bool) -> Iterator[str]:
    """A proxy with a certificate that signs itself; its address."""
    with places(1) as (place,):
        directory = place.directory
        key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(directory / "key")]
        cert = ["-out", str(directory / "cert"), "-subj", "/CN=a counter"]
        command = [str(need("openssl")), "req", "-x509", *key, *cert]
        subprocess.run(command, check=True, capture_output=True)
        conf = directory / "conf"
        conf.write_text(NGINX.format(port=place.port, http2=" http2" * http2, service=service))
        command = [str(need("nginx")), "-p", str(directory), "-c", str(conf), "-e", "stderr"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: (directory / "pid").exists(), START_S)
            yield f"https://127.0.0.1:{place.port}"
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.parametrize(("http2", "protocol"), [(True, "h2"), (False, "http/1.1")])
async def test_live_as_the_protocol_allows(
    browser: Browser, valkey: Server, http2: bool, protocol: str
) -> None:
    """Over HTTP/2 one stream brings what is new; over 1.1, which has few connections, polls do."""
    context = await browser.new_context(ignore_https_errors=True)
    page = await context.new_page()
    await page.add_init_script(HURRY)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/w/")[2]))
    body = TWO_LINES.replace("<visit-counter>", '<visit-counter live="auto" show="online">')
    async with run_service(valkey.url) as service:
        with tls_proxy(service.url, http2) as counter:
            async with host_page(counter, body) as host:
                await service.site("portal", origins=[host.url])
                await page.goto(host.url)
                row = page.locator("[part=row]")
                await expect(row).to_have_text("Đang online: 1")
                assert await page.evaluate(f"{SCRIPT}.nextHopProtocol") == protocol
                if http2:
                    await until(lambda: equal("portal/live" in asked, True), "a stream")
                await service.hit("portal", headers={"Origin": host.url, "User-Agent": OTHER})
                await expect(row).to_have_text("Đang online: 2")
                await page.goto("about:blank")
    assert ("portal/live" in asked, asked.count("portal") > 1) == (http2, not http2)
