"""The files of certificates that the store's URL names, opened once before the first connection:
there a wrong one would look like a store that is away."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from visit_counter.store.starting.final import URL

FILES = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")


def wrong_files(options: Mapping[str, str]) -> str:
    """What is wrong with them, and where that is to be corrected; "" if nothing is."""
    if not options:
        return ""
    for name in FILES:
        if name in options and (why := _unreadable(Path(options[name]))):
            return f"{name} in {URL} is the file {options[name]}, which cannot be read: {why}"
    if "ssl_ca_path" in options and not Path(options["ssl_ca_path"]).is_dir():  # OpenSSL is silent
        return f"ssl_ca_path in {URL} is not a directory: {options['ssl_ca_path']}"
    context = ssl.create_default_context()
    try:
        if certificate := options.get("ssl_certfile"):
            # Without a password OpenSSL would ask the terminal for one.
            key, password = options.get("ssl_keyfile"), options.get("ssl_password", "")
            context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        return (
            f"ssl_certfile in {URL} is not a certificate (PEM) with the key of ssl_keyfile, or "
            f"that key is encrypted with another password than ssl_password: {error}"
        )
    try:
        authorities = options.get("ssl_ca_certs"), options.get("ssl_ca_path")
        if any(authorities):
            context.load_verify_locations(*authorities)
    except OSError as error:  # ssl.SSLError is one
        return f"ssl_ca_certs or ssl_ca_path in {URL} has no certificates (PEM): {error}"
    return ""


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return error.strerror or str(error)
