"""Real handshakes over two memory buffers: no sockets, no loop, the machine's OpenSSL."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.identity.certificate import DAY, facts
from sidecar.transport.tls import (
    ReloadingContext,
    TlsFiles,
    client_context,
    server_context,
    verify_peer_identity,
)
from tests.support.pki import STARTED, Leaf, Pki, shake_hands, talk


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def server(leaf: Leaf, mode: str = "require") -> ssl.SSLContext:
    return server_context(leaf.certificate, leaf.private_key, leaf.ca, mode)  # type: ignore[arg-type]


def client(leaf: Leaf, *, check_hostname: bool = True) -> ssl.SSLContext:
    return client_context(leaf.certificate, leaf.private_key, leaf.ca, check_hostname=check_hostname)


def peer(end: ssl.SSLObject) -> str | None:
    return facts(end.getpeercert(binary_form=True) or b"").identity


def files(leaf: Leaf) -> TlsFiles:
    return TlsFiles(leaf.certificate, leaf.private_key, leaf.ca)


class TestHandshake:
    def test_both_ends_know_each_other_and_speak_h2(self, pki: Pki) -> None:
        ours, theirs = shake_hands(client(pki.leaf("orders")), server(pki.leaf("data")))
        assert peer(ours) == "spiffe://mesh.local/agent/data"
        assert peer(theirs) == "spiffe://mesh.local/agent/orders"
        assert ours.selected_alpn_protocol() == theirs.selected_alpn_protocol() == "h2"
        assert ours.version() == "TLSv1.3"
        assert ours.compression() is None

    def test_a_required_certificate_that_is_missing_ends_the_handshake(self, pki: Pki) -> None:
        bare = client_context(None, None, pki.ca)
        with pytest.raises(ssl.SSLError) as caught:
            shake_hands(bare, server(pki.leaf("data")))
        assert caught.value.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"

    def test_an_optional_certificate_may_be_missing(self, pki: Pki) -> None:
        bare = client_context(None, None, pki.ca)
        _, theirs = shake_hands(bare, server(pki.leaf("data"), "optional"))
        assert theirs.getpeercert(binary_form=True) is None

    def test_an_optional_certificate_that_is_shown_is_verified(self, pki: Pki, tmp_path: Path) -> None:
        _, theirs = shake_hands(client(pki.leaf("orders")), server(pki.leaf("data"), "optional"))
        assert peer(theirs) == "spiffe://mesh.local/agent/orders"
        stranger = Pki(tmp_path / "other", "other").leaf("orders")
        context = client_context(stranger.certificate, stranger.private_key, pki.ca)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, server(pki.leaf("data"), "optional"))

    def test_none_asks_for_nothing(self, pki: Pki) -> None:
        data = pki.leaf("data")
        context = server_context(data.certificate, data.private_key, None, "none")
        _, theirs = shake_hands(client(pki.leaf("orders")), context)
        assert theirs.getpeercert(binary_form=True) is None

    def test_a_certificate_of_another_ca_is_refused_by_the_server(self, pki: Pki, tmp_path: Path) -> None:
        stranger = Pki(tmp_path / "other", "other").leaf("orders")
        context = client_context(stranger.certificate, stranger.private_key, pki.ca)
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            shake_hands(context, server(pki.leaf("data")))
        assert "unable to get local issuer" in caught.value.verify_message

    def test_a_certificate_of_another_ca_is_refused_by_the_client(self, pki: Pki, tmp_path: Path) -> None:
        stranger = Pki(tmp_path / "other", "other").leaf("data")
        context = server_context(stranger.certificate, stranger.private_key, pki.ca)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(client(pki.leaf("orders")), context)

    @pytest.mark.parametrize(("kind", "why"), [("expired", "expired"), ("not_yet_valid", "not yet valid")])
    def test_a_certificate_out_of_its_time_is_refused(self, pki: Pki, kind: str, why: str) -> None:
        odd: Leaf = getattr(pki, kind)("odd")
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            shake_hands(client(odd), server(pki.leaf("data")))
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            shake_hands(client(pki.leaf("orders")), server(odd))

    def test_two_uris_pass_the_handshake_and_are_no_identity(self, pki: Pki) -> None:
        _, theirs = shake_hands(client(pki.two_uris("twice")), server(pki.leaf("data")))
        found = facts(theirs.getpeercert(binary_form=True) or b"")
        assert (found.identity, found.problem) == (None, "it has 2 URI SANs; exactly one is allowed")

    def test_a_chain_over_an_intermediate_is_followed(self, pki: Pki) -> None:
        _, theirs = shake_hands(client(pki.leaf("orders", intermediate="middle")), server(pki.leaf("data")))
        assert peer(theirs) == "spiffe://mesh.local/agent/orders"

    def test_a_trusted_intermediate_is_trusted_without_its_root(self, pki: Pki, tmp_path: Path) -> None:
        orders = pki.leaf("orders", intermediate="middle")
        alone = tmp_path / "middle.crt"
        alone.write_text(orders.certificate.read_text().split("-----END CERTIFICATE-----\n", 1)[1])
        data = pki.leaf("data")
        context = server_context(data.certificate, data.private_key, alone)
        _, theirs = shake_hands(client(orders), context)
        assert peer(theirs) == "spiffe://mesh.local/agent/orders"
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(client(pki.leaf("direct")), context)

    def test_several_cas_in_one_file_overlap(self, pki: Pki, tmp_path: Path) -> None:
        other = Pki(tmp_path / "other", "other")
        newcomer = other.leaf("orders")
        both = tmp_path / "both.crt"
        both.write_bytes(pki.ca.read_bytes() + other.ca.read_bytes())
        data = pki.leaf("data")
        context = server_context(data.certificate, data.private_key, both)
        shake_hands(client(pki.leaf("orders")), context)
        shake_hands(client_context(newcomer.certificate, newcomer.private_key, pki.ca), context)

    def test_a_peer_without_a_common_protocol_has_none_and_the_caller_sees_that(self, pki: Pki) -> None:
        context = client(pki.leaf("orders"))
        context.set_alpn_protocols(["http/1.1"])
        _, theirs = shake_hands(context, server(pki.leaf("data")))
        assert theirs.selected_alpn_protocol() is None


class TestHostName:
    @pytest.mark.parametrize("name", ["localhost", "data", "127.0.0.1", "::1"])
    def test_a_name_of_the_certificate_is_accepted(self, pki: Pki, name: str) -> None:
        shake_hands(client(pki.leaf("orders")), server(pki.leaf("data")), name)

    def test_another_name_is_refused(self, pki: Pki) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake_hands(client(pki.leaf("orders")), server(pki.leaf("data")), "elsewhere")

    def test_without_the_check_the_chain_is_still_verified(self, pki: Pki, tmp_path: Path) -> None:
        context = client(pki.leaf("orders"), check_hostname=False)
        ours, _ = shake_hands(context, server(pki.uri_only("data")), "10.0.0.5")
        der = ours.getpeercert(binary_form=True) or b""
        assert verify_peer_identity(der, ["spiffe://mesh.local/agent/data"]) is None
        stranger = Pki(tmp_path / "other", "other").leaf("data")
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, server_context(stranger.certificate, stranger.private_key, pki.ca))


class TestPeerIdentity:
    @pytest.mark.parametrize(
        "patterns",
        [
            ["spiffe://mesh.local/agent/data"],
            ["spiffe://mesh.local/agent/other", "spiffe://mesh.local/agent/data"],
            ["spiffe://mesh.local/agent/*"],
            ["spiffe://mesh.local/agent/data*"],
            ["*"],
        ],
    )
    def test_one_pattern_that_matches_is_enough(self, pki: Pki, patterns: list[str]) -> None:
        assert verify_peer_identity(pki.leaf("data").der, patterns) is None

    @pytest.mark.parametrize(
        "patterns",
        [
            [],
            ["spiffe://mesh.local/agent/dat"],
            ["spiffe://mesh.local/agent/data-too"],
            ["spiffe://mesh.local/agent/*/x"],
            ["spiffe://other.local/agent/*"],
            ["*/data"],
            [""],
        ],
    )
    def test_no_match_is_told_with_who_answered(self, pki: Pki, patterns: list[str]) -> None:
        assert verify_peer_identity(pki.leaf("data").der, patterns) == (
            "the peer is spiffe://mesh.local/agent/data, which is not one of peer_identities"
        )

    def test_an_unusable_certificate_matches_nothing(self, pki: Pki) -> None:
        assert "2 URI SANs" in (verify_peer_identity(pki.two_uris("data").der, ["*"]) or "")
        assert "cannot be read" in (verify_peer_identity(b"", ["*"]) or "")


class TestProtocol:
    def old_client(self, pki: Pki) -> ssl.SSLContext:
        context = client(pki.leaf("orders"))
        # The name is deprecated, as it should be; SECLEVEL=0 lets our own OpenSSL offer it at all.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context

    def test_tls_1_1_is_refused_by_the_server(self, pki: Pki) -> None:
        with pytest.raises(ssl.SSLError) as caught:
            shake_hands(self.old_client(pki), server(pki.leaf("data")))
        assert caught.value.reason == "UNSUPPORTED_PROTOCOL"

    def test_that_client_would_succeed_if_the_server_allowed_it(self, pki: Pki) -> None:
        context = server(pki.leaf("data"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        assert shake_hands(self.old_client(pki), context)[0].version() == "TLSv1.1"

    def test_tls_1_2_works_with_authenticated_ciphers_and_forward_secrecy(self, pki: Pki) -> None:
        context = client(pki.leaf("orders"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        ours, theirs = shake_hands(context, server(pki.leaf("data")))
        assert ours.version() == "TLSv1.2"
        chosen = ours.cipher()
        assert chosen is not None
        assert re.fullmatch(r"ECDHE-ECDSA-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)", chosen[0])
        assert peer(theirs) == "spiffe://mesh.local/agent/orders"

    def test_a_cipher_without_forward_secrecy_is_refused(self, pki: Pki) -> None:
        context = client(pki.leaf("orders"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA")
        with pytest.raises(ssl.SSLError) as caught:
            shake_hands(context, server(pki.leaf("data")))
        assert caught.value.reason == "NO_SHARED_CIPHER"

    def test_only_suites_that_http2_allows_are_offered(self, pki: Pki) -> None:
        for context in (server(pki.leaf("data")), client(pki.leaf("orders"))):
            # RFC 9113 Appendix A forbids what is not both ephemeral and AEAD.
            assert all(one["aead"] for one in context.get_ciphers())
            assert all(one["kea"] in {"kx-ecdhe", "kx-any"} for one in context.get_ciphers())

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_no_ticket_is_given_that_could_skip_the_certificates(self, pki: Pki, version: ssl.TLSVersion) -> None:
        context = client(pki.leaf("orders"))
        context.maximum_version = version
        # A client that would like one.
        context.options &= ~ssl.OP_NO_TICKET
        ours, _ = shake_hands(context, server(pki.leaf("data")))
        session = ours.session
        assert session is None or not session.has_ticket

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_session_does_not_survive_a_change_of_the_ca(
        self, pki: Pki, tmp_path: Path, version: ssl.TLSVersion
    ) -> None:
        data = pki.leaf("data")
        context = client(pki.leaf("orders"))
        context.maximum_version = version
        context.options &= ~ssl.OP_NO_TICKET
        session = shake_hands(context, server(data))[0].session
        changed = server_context(data.certificate, data.private_key, Pki(tmp_path / "new", "new").ca)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, changed, session=session)

    @pytest.mark.parametrize("flag", [ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_TICKET])
    def test_what_is_switched_off_is_off_on_both_ends(self, pki: Pki, flag: ssl.Options) -> None:
        assert server(pki.leaf("data")).options & flag
        assert client(pki.leaf("orders")).options & flag


class TestArguments:
    def test_a_server_that_verifies_needs_cas(self, pki: Pki) -> None:
        data = pki.leaf("data")
        for mode in ("require", "optional"):
            with pytest.raises(ValueError, match=f"client_certificate: {mode} needs trusted_ca"):
                server_context(data.certificate, data.private_key, None, mode)

    def test_an_unknown_mode_is_refused(self, pki: Pki) -> None:
        data = pki.leaf("data")
        with pytest.raises(ValueError, match="require, optional or none"):
            server_context(data.certificate, data.private_key, pki.ca, "maybe")  # type: ignore[arg-type]

    def test_a_client_without_cas_trusts_those_of_the_machine_and_not_ours(self, pki: Pki) -> None:
        orders = pki.leaf("orders")
        context = client_context(orders.certificate, orders.private_key, None)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, server(pki.leaf("data")))

    def test_what_openssl_does_not_take_is_told_with_the_file(self, pki: Pki, tmp_path: Path) -> None:
        data, orders = pki.leaf("data"), pki.leaf("orders")
        with pytest.raises(ValueError, match=r"data\.crt: OpenSSL does not take .*orders\.key: key values mismatch"):
            server_context(data.certificate, orders.private_key, pki.ca)
        with pytest.raises(ValueError, match=r"absent\.crt: OpenSSL does not take it: No such file"):
            client_context(None, None, tmp_path / "absent.crt")


class TestReload:
    def test_new_handshakes_use_the_new_certificate_and_the_old_connection_goes_on(self, pki: Pki) -> None:
        context = ReloadingContext.server(files(pki.leaf("data")), "require", lambda: STARTED)
        caller = client(pki.leaf("orders"))
        ours, theirs = shake_hands(caller, context.current)
        before, serial = context.current, facts(ours.getpeercert(binary_form=True) or b"").serial
        renewed = pki.leaf("data", generation=2)
        assert context.reload()
        assert context.current is not before
        assert context.generation == 2
        again, _ = shake_hands(caller, context.current)
        assert again.getpeercert(binary_form=True) == renewed.der
        assert facts(again.getpeercert(binary_form=True) or b"").serial != serial
        talk(ours, theirs)

    def test_nothing_changed_is_no_reload(self, pki: Pki) -> None:
        leaf = pki.leaf("data")
        context = ReloadingContext.server(files(leaf), "require", lambda: STARTED)
        before = context.current
        # The time of the file is not its content.
        os.utime(leaf.certificate, (1, 1))
        assert not context.reload()
        assert context.current is before
        assert (context.generation, context.problem) == (1, None)

    @pytest.mark.parametrize("first", ["certificate", "private_key"])
    def test_a_half_written_pair_keeps_the_old_one_until_it_is_whole(self, pki: Pki, first: str) -> None:
        leaf = pki.leaf("data")
        context = ReloadingContext.server(files(leaf), "require", lambda: STARTED)
        before = context.current
        former = {part: getattr(leaf, part).read_bytes() for part in ("certificate", "private_key")}
        pki.leaf("data", generation=2)
        renewed = {part: getattr(leaf, part).read_bytes() for part in former}
        for part, content in former.items():
            getattr(leaf, part).write_bytes(renewed[part] if part == first else content)
        assert not context.reload()
        assert context.current is before
        assert "does not match" in (context.problem or "")
        shake_hands(client(pki.leaf("orders")), context.current)
        for part, content in renewed.items():
            getattr(leaf, part).write_bytes(content)
        assert context.reload()
        assert context.problem is None

    @pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB", None])
    @pytest.mark.parametrize("part", ["certificate", "trusted_ca"])
    def test_a_file_that_cannot_be_used_keeps_the_old_one(self, pki: Pki, part: str, content: bytes | None) -> None:
        context = ReloadingContext.server(files(pki.leaf("data")), "require", lambda: STARTED)
        before = context.current
        path: Path = getattr(context.files, part)
        good = path.read_bytes()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        assert not context.reload()
        assert context.current is before
        assert str(path) in (context.problem or "")
        path.write_bytes(good)
        assert not context.reload()
        assert context.problem is None

    def test_an_expired_newcomer_does_not_replace_what_is_valid(self, pki: Pki) -> None:
        context = ReloadingContext.server(files(pki.leaf("data")), "require", lambda: STARTED)
        before = context.current
        pki.expired("data")
        assert not context.reload()
        assert context.current is before
        assert "expired 1 day ago" in (context.problem or "")

    def test_what_is_not_yet_valid_is_taken_when_its_time_comes(self, pki: Pki) -> None:
        now = [STARTED]
        context = ReloadingContext.server(files(pki.leaf("data")), "require", lambda: now[0])
        pki.not_yet_valid("data")
        assert not context.reload()
        now[0] += 2 * DAY
        assert context.reload()

    def test_a_swapped_symlink_is_seen(self, pki: Pki, tmp_path: Path) -> None:
        # As Kubernetes mounts a Secret: file -> ..data/file, ..data -> a folder with a date, replaced by rename.
        mount = tmp_path / "mount"
        mount.mkdir()
        for generation in (1, 2):
            leaf = pki.leaf("data", generation=generation)
            folder = mount / f"..{generation}"
            folder.mkdir()
            (folder / "tls.crt").write_bytes(leaf.certificate.read_bytes())
            (folder / "tls.key").write_bytes(leaf.private_key.read_bytes())
        (mount / "..data").symlink_to("..1")
        for name in ("tls.crt", "tls.key"):
            (mount / name).symlink_to(f"..data/{name}")
        context = ReloadingContext.server(
            TlsFiles(mount / "tls.crt", mount / "tls.key", pki.ca), "require", lambda: STARTED
        )
        (mount / "..next").symlink_to("..2")
        (mount / "..next").replace(mount / "..data")
        assert context.reload()
        ours, _ = shake_hands(client(pki.leaf("orders")), context.current)
        assert ours.getpeercert(binary_form=True) == leaf.der

    def test_a_ca_that_was_removed_admits_nobody_new(self, pki: Pki, tmp_path: Path) -> None:
        context = ReloadingContext.server(files(pki.leaf("data")), "require", lambda: STARTED)
        caller = client(pki.leaf("orders"))
        shake_hands(caller, context.current)
        pki.ca.write_bytes(Pki(tmp_path / "other", "other").ca.read_bytes())
        assert context.reload()
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(caller, context.current)

    def test_files_that_change_while_they_are_read_are_not_taken(self, pki: Pki) -> None:
        leaf = pki.leaf("data")
        context: ReloadingContext
        armed: list[Callable[[], object]] = []

        def build(paths: TlsFiles) -> ssl.SSLContext:
            assert paths.certificate is not None
            assert paths.private_key is not None
            made = server_context(paths.certificate, paths.private_key, paths.trusted_ca)
            for change in armed:
                change()
            return made

        context = ReloadingContext(files(leaf), build, lambda: STARTED)
        before = context.current
        pki.leaf("data", generation=2)
        armed.append(lambda: pki.leaf("data", generation=3))
        assert not context.reload()
        assert context.current is before
        assert "being changed" in (context.problem or "")
        armed.clear()
        assert context.reload()

    def test_a_client_context_follows_its_files_too(self, pki: Pki) -> None:
        context = ReloadingContext.client(files(pki.leaf("orders")), lambda: STARTED)
        renewed = pki.leaf("orders", generation=2)
        assert context.reload()
        _, theirs = shake_hands(context.current, server(pki.leaf("data")))
        assert theirs.getpeercert(binary_form=True) == renewed.der

    def test_a_client_may_have_no_certificate_of_its_own(self, pki: Pki) -> None:
        context = ReloadingContext.client(TlsFiles(None, None, pki.ca), lambda: STARTED, check_hostname=False)
        assert context.days_left() is None
        shake_hands(context.current, server(pki.leaf("data"), "optional"), "elsewhere")

    @pytest.mark.parametrize(("kind", "why"), [("expired", "expired 1 day ago"), ("not_yet_valid", "valid only in")])
    def test_the_first_load_refuses_what_is_not_valid(self, pki: Pki, kind: str, why: str) -> None:
        leaf: Leaf = getattr(pki, kind)("data")
        with pytest.raises(ValueError, match=rf"data\.crt: .*{why}"):
            ReloadingContext.server(files(leaf), "require", lambda: STARTED)

    def test_a_listener_needs_a_certificate(self, pki: Pki) -> None:
        with pytest.raises(ValueError, match="needs certificate and private_key"):
            ReloadingContext.server(TlsFiles(None, None, pki.ca), "require", lambda: STARTED)

    def test_it_describes_what_is_in_use_and_what_is_wrong_with_the_newer(self, pki: Pki) -> None:
        leaf = pki.leaf("data")
        context = ReloadingContext.server(files(leaf), "require", lambda: STARTED)
        assert context.days_left() == 30
        secret = leaf.private_key.read_text().splitlines()[1]
        leaf.private_key.write_text("-----BEGIN PRIVATE KEY-----\n" + secret)
        context.reload()
        shown = context.describe()
        assert shown["generation"] == 1
        assert shown["days_left"] == 30.0
        assert "data.key" in str(shown["reload_problem"])
        assert secret not in str(shown)


def test_a_sidecar_in_clear_does_not_load_cryptography() -> None:
    program = "import sidecar.transport.tls, sidecar.cli.certs, sys; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "False\n"
