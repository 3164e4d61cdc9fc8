from __future__ import annotations

import json
from collections.abc import Callable

from sidecar.config.load import Loaded
from sidecar.config.redaction import redacted

FILE = """
admin: {token: "${TOKEN}"}
listeners:
  - name: a
    direction: inbound
    bind: 127.0.0.1:8443
    tls: {certificate: a.crt, private_key: a.key, client_certificate: none}
    routes:
      - {name: all, match: {method: /*, metadata: {x-api-key: "hunter2-*"}}, to: local}
policies:
  headers:
    set: {authorization: "Bearer hunter2", x-mesh: "1", x-next: "http://user:hunter2@a/b"}
clusters: {local: {endpoints: ["127.0.0.1:50051"]}}
"""


def test_secrets_are_not_shown(read: Callable[..., Loaded]) -> None:
    shown = redacted(read(FILE, TOKEN="hunter2-hunter2-hunter2").root)
    assert "hunter2" not in json.dumps(shown)
    assert shown["admin"]["token"] == "[redacted]"
    assert shown["policies"]["headers"]["set"] == {
        "authorization": "[redacted]",
        "x-mesh": "1",
        "x-next": "http://[redacted]@a/b",
    }


def test_everything_else_is_shown_in_the_words_of_the_file(read: Callable[..., Loaded]) -> None:
    shown = redacted(read(FILE, TOKEN="hunter2-hunter2-hunter2").root)
    assert shown["drain_timeout"] == "30s"
    assert shown["listeners"][0]["tls"]["private_key"] == "/etc/sidecar/a.key"
    assert shown["listeners"][0]["limits"]["max_metadata"] == "16KiB"
    assert shown["listeners"][0]["routes"][0]["match"]["method"] == ["/*"]


def test_a_secret_is_in_no_text_of_the_models(read: Callable[..., Loaded]) -> None:
    loaded = read(FILE, TOKEN="hunter3-hunter3-hunter3")
    assert "hunter3" not in repr(loaded.root)
    assert "hunter3" not in repr(loaded)
