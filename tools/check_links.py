"""Follows every link within the built site, as a browser would: `make docs`.

    .venv-docs/bin/python tools/check_links.py build/docs

The site is served on this machine, because linkchecker, run as root, reads files as nobody.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """linkchecker closes a connection early where it wants no more of a file."""


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """linkchecker says what is wrong."""


def main() -> int:
    handler = functools.partial(Handler, directory=sys.argv[1])
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        command = [str(Path(sys.executable).parent / "linkchecker"), "--no-robots", "--no-status"]
        status = subprocess.run([*command, address]).returncode
        server.shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
