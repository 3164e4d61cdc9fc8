"""The proxies that this machine has, configured to relay gRPC to one upstream, each with one worker."""

from __future__ import annotations

import shutil
from pathlib import Path

_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {kind}.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: HTTP2
          stat_prefix: in
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: up, timeout: 0s}}}}]}}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": {kind}.filters.http.rbac.v3.RBAC
              rules: {{action: ALLOW, policies: {{p: {{permissions: [{{any: true}}], principals: [{principal}]}}}}}}
          - name: envoy.filters.http.grpc_stats
            typed_config: {{"@type": {kind}.filters.http.grpc_stats.v3.FilterConfig, stats_for_all_methods: true}}
          - name: envoy.filters.http.router
            typed_config: {{"@type": {kind}.filters.http.router.v3.Router}}{tls}
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {kind}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: up
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {upstream}}}}}}}}}]}}]
"""

_ENVOY_TLS = """
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": {kind}.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates: [{{certificate_chain: {{filename: {folder}/server.crt}}, private_key: {{filename: {folder}/server.key}}}}]
            validation_context: {{trusted_ca: {{filename: {folder}/ca.crt}}}}"""


def found_peers(folder: Path, upstream: str, *, mtls: bool) -> dict[str, tuple[list[str], int]]:
    """Name → (command, port)."""
    host, port = upstream.split(":")
    kind = "type.googleapis.com/envoy.extensions"
    found: dict[str, tuple[list[str], int]] = {}
    if envoy := shutil.which("envoy"):
        principal, tls = "{any: true}", ""
        if mtls:
            principal = '{authenticated: {principal_name: {exact: "spiffe://mesh.local/agent/client"}}}'
            tls = _ENVOY_TLS.format(kind=kind, folder=folder)
        (folder / "envoy.yaml").write_text(
            _ENVOY.format(port=19101, kind=kind, principal=principal, tls=tls, host=host, upstream=port)
        )
        command = [envoy, "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]
        found["envoy"] = (command, 19101)
    if haproxy := shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin"):
        bind = "proto h2"
        if mtls:
            (folder / "both.pem").write_text((folder / "server.crt").read_text() + (folder / "server.key").read_text())
            bind = f"ssl crt {folder}/both.pem ca-file {folder}/ca.crt verify required alpn h2"
        (folder / "haproxy.cfg").write_text(
            "global\n nbthread 1\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n"
            f"frontend f\n bind 127.0.0.1:19102 {bind}\n default_backend b\nbackend b\n server s {upstream} proto h2\n"
        )
        found["haproxy"] = ([haproxy, "-f", str(folder / "haproxy.cfg"), "-db"], 19102)
    if nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        listen = "http2"
        if mtls:
            listen = (
                f"ssl http2; ssl_certificate {folder}/server.crt; ssl_certificate_key {folder}/server.key; "
                f"ssl_client_certificate {folder}/ca.crt; ssl_verify_client on"
            )
        (folder / "nginx.conf").write_text(
            f"worker_processes 1; daemon off; error_log {folder}/nginx.err; pid {folder}/nginx.pid; "
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; client_max_body_size 0; upstream u {{ server {upstream}; keepalive 64; }}\n"
            f" server {{ listen 127.0.0.1:19103 {listen}; keepalive_requests 100000000; "
            "location / { grpc_pass grpc://u; } } }\n"
        )
        found["nginx"] = ([nginx, "-c", str(folder / "nginx.conf")], 19103)
    return found
