"""h2spec, all of it, against a real inbound listener, in clear and over TLS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.pki import Pki
from tests.support.processes import Sidecar

ROOT = Path(__file__).resolve().parents[2]
_PLACES = os.pathsep.join([str(ROOT / ".tools/bin"), str(Path.home() / "go/bin"), os.environ.get("PATH", "")])
H2SPEC = shutil.which("h2spec", path=_PLACES)
CASES = 145

CONFIG = """
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    {tls}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["127.0.0.1:1"]}}
"""


@pytest.mark.skipif(H2SPEC is None, reason="h2spec is not installed (go install github.com/summerwind/h2spec/cmd/h2spec)")
@pytest.mark.parametrize("transport", ["clear", "tls"])
def test_all_of_h2spec_passes(transport: str, tmp_path: Path) -> None:
    assert H2SPEC is not None
    tls, flags = "", []
    if transport == "tls":
        leaf = Pki(tmp_path / "certs").leaf("server")
        tls = f"tls: {{certificate: {leaf.certificate}, private_key: {leaf.private_key}, client_certificate: none}}"
        flags = ["-t", "-k"]
    with Sidecar(CONFIG.format(tls=tls), tmp_path) as sidecar:
        host, port = sidecar.address()
        result = subprocess.run(
            [H2SPEC, "-h", host, "-p", str(port), "-o", "5", *flags], capture_output=True, text=True, timeout=300, check=False
        )
        assert sidecar.is_running
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", result.stdout)
    assert summary is not None, result.stdout[-2000:] + result.stderr
    failures = result.stdout[result.stdout.find("Failures:") :] if "Failures:" in result.stdout else ""
    assert summary.groups() == (str(CASES), str(CASES), "0", "0"), failures
