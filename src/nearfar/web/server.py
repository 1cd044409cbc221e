"""Serves a site in a thread of the watch."""

from __future__ import annotations

import socket
import threading

from nearfar.errors import InputError, NearfarError
from nearfar.web.app import create_app
from nearfar.web.site import Site

STARTS_WITHIN_S = 10.0


class Server:
    """A web server that runs until it is closed.

    Raises:
        InputError: if the address cannot be used.
    """

    def __init__(self, site: Site) -> None:
        import uvicorn

        page = site.config.page
        assert page is not None
        family = socket.AF_INET6 if ":" in page.host else socket.AF_INET
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((page.host, page.port))
        except OSError as error:
            listening.close()
            raise InputError(
                "page.port",
                found=f"{page.host}:{page.port} cannot be used ({error.strerror or error})",
                expected="a free port and an address of this computer",
                remedy="Choose another one",
            ) from None
        encrypted = page.certificate_file is not None
        host = f"[{page.host}]" if family == socket.AF_INET6 else page.host
        self.address = f"http{'s' if encrypted else ''}://{host}:{listening.getsockname()[1]}/"
        """Of the first page."""
        config = uvicorn.Config(
            create_app(site),
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=None if page.certificate_file is None else site.base / page.certificate_file,
            ssl_keyfile=None if page.key_file is None else site.base / page.key_file,
            timeout_graceful_shutdown=2,
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="pages", daemon=True)
        self._thread.start()
        pause = threading.Event()
        for _ in range(round(STARTS_WITHIN_S / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            pause.wait(0.02)
        if not self._server.started:
            raise NearfarError("The pages could not be started; see the messages above.")

    def close(self) -> None:
        """Stop, after the answers under way."""
        self._server.should_exit = True
        self._thread.join()
