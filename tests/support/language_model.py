"""An endpoint that speaks OpenAI's chat completions, on this machine; it says what a test has written down."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from agent_server.configuration.settings import Model


class Endpoint:
    """Speaks like an OpenAI-compatible endpoint; gives its answers one after the other."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                endpoint.keys.append(self.headers["authorization"])
                answer = endpoint.answers.pop(0)
                status = answer if isinstance(answer, int) else 200
                told = {"choices": [{"message": {"content": answer}}], "usage": {"total_tokens": 21}}
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.web.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        url = f"http://127.0.0.1:{self.web.server_port}/v1"
        self.url = url
        self.model = Model(base_url=url, name="small", api_key=SecretStr("hush"), timeout=10.0)

    def close(self) -> None:
        self.web.shutdown()
        self.thread.join()
        self.web.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
