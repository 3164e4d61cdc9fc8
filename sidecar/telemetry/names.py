"""The one vocabulary: every metric with its kind, its help and its labels. Nothing else names a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MetricName:
    """One family as Prometheus shows it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_RPC = ("listener", "direction", "route", "grpc_service", "grpc_method")

RPCS = MetricName(
    "sidecar_rpcs_total",
    "counter",
    "RPCs that have ended, by status code, by who made the status, and by our reason if we did.",
    (*_RPC, "grpc_code", "origin", "reason"),
)
RPC_SECONDS = MetricName(
    "sidecar_rpc_duration_seconds", "histogram", "From the caller's headers to the end of the RPC.", _RPC
)
RPCS_ACTIVE = MetricName("sidecar_rpcs_active", "gauge", "RPCs that run now.", ("listener", "direction", "route"))
BYTES_RECEIVED = MetricName("sidecar_rpc_received_bytes_total", "counter", "Message bytes from callers.", _RPC)
BYTES_SENT = MetricName("sidecar_rpc_sent_bytes_total", "counter", "Message bytes to callers.", _RPC)
MESSAGES_RECEIVED = MetricName("sidecar_rpc_received_messages_total", "counter", "Messages from callers.", _RPC)
MESSAGES_SENT = MetricName("sidecar_rpc_sent_messages_total", "counter", "Messages to callers.", _RPC)
AUTHZ_DECISIONS = MetricName(
    "sidecar_authz_decisions_total",
    "counter",
    "Authorization decisions (allow, deny, would_deny in audit mode) by the rule that made them.",
    ("listener", "route", "decision", "rule"),
)
LIMIT_REFUSALS = MetricName(
    "sidecar_limit_refusals_total",
    "counter",
    "RPCs and streams that a rate limit or a budget refused or ended.",
    ("listener", "policy", "limit"),
)
LIMIT_PAUSES = MetricName(
    "sidecar_limit_pauses_total",
    "counter",
    "Messages that a rate limit held back until their time came.",
    ("listener", "limit"),
)
LIMIT_STORE_ERRORS = MetricName(
    "sidecar_limit_store_errors_total",
    "counter",
    "Shared limits and budgets that their store could not decide, by what was done instead: allow, deny; "
    "charge_lost: units that were used and could not be charged.",
    ("listener", "policy", "limit", "decision"),
)
IDEMPOTENCY = MetricName(
    "sidecar_idempotency_total",
    "counter",
    "Keyed RPCs, by what became of them: executed, replayed, joined (waited for another's answer), released (not done), "
    "unknown, reused, in_progress, not_replayable, malformed, required, too_large, store_unavailable.",
    ("listener", "route", "outcome"),
)
CACHE = MetricName(
    "sidecar_cache_total",
    "counter",
    "RPCs of methods whose answers may be kept: hit, miss (asked the agent), joined (waited for another's answer), bypassed "
    "(cache-control, or too large), not_kept (the agent's answer is for one caller alone).",
    ("listener", "route", "outcome"),
)
CACHE_ENTRIES = MetricName(
    "sidecar_cache_entries", "gauge", "Answers that are kept, by the route that has begun it.", ("listener", "route")
)
CACHE_BYTES = MetricName("sidecar_cache_bytes", "gauge", "Bytes of the answers that are kept.", ("listener", "route"))
CACHE_DROPPED = MetricName(
    "sidecar_cache_dropped_total",
    "counter",
    "Answers that went: expired, full, cleared (by hand), invalidated (by a write).",
    ("listener", "reason"),
)
MIRRORED = MetricName(
    "sidecar_mirrored_total",
    "counter",
    "RPCs that were drawn to be copied: sent, and of those same, different, no_answer; or left out: keyed, busy, unreachable, "
    "too_large.",
    ("listener", "route", "outcome"),
)
MIRROR_DIFFERENCES = MetricName(
    "sidecar_mirror_differences_total",
    "counter",
    "What answers to copies differed in: status, size, fields.",
    ("listener", "route", "kind"),
)
VERSION_STARTS = MetricName(
    "sidecar_version_starts_total",
    "counter",
    "Agents of versions that the sidecar has started.",
    ("cluster", "version"),
)
BUDGET_CHARGED = MetricName(
    "sidecar_budget_charged_total", "counter", "Units charged to a budget.", ("listener", "limit")
)
BUDGET_CHARGES_UNREADABLE = MetricName(
    "sidecar_budget_charges_unreadable_total",
    "counter",
    "Charges by the agent that are no whole number; what was reserved is charged instead.",
    ("listener", "limit"),
)
MESSAGES_MASKED = MetricName(
    "sidecar_messages_masked_total",
    "counter",
    "Messages of agents in which something was masked.",
    ("listener", "route"),
)
MESSAGES_INVALID = MetricName(
    "sidecar_messages_invalid_total",
    "counter",
    "Messages of callers that did not parse or broke a rule.",
    ("listener", "route"),
)
CONNECTIONS = MetricName(
    "sidecar_connections_active", "gauge", "Open connections of callers.", ("listener", "direction")
)
CONNECTIONS_ACCEPTED = MetricName(
    "sidecar_connections_accepted_total", "counter", "Connections accepted.", ("listener", "direction")
)
CONNECTIONS_REFUSED = MetricName(
    "sidecar_connections_refused_total",
    "counter",
    "Connections refused: over max_connections, or no file descriptor left.",
    ("listener", "direction"),
)
HANDSHAKES_FAILED = MetricName(
    "sidecar_handshakes_failed_total", "counter", "TLS handshakes that failed.", ("listener", "direction")
)
ENDPOINT_READY = MetricName(
    "sidecar_endpoint_ready", "gauge", "1 = connected and taking RPCs.", ("cluster", "endpoint")
)
ENDPOINT_ACTIVE = MetricName(
    "sidecar_endpoint_attempts_active", "gauge", "Attempts that run at an endpoint now.", ("cluster", "endpoint")
)
ENDPOINT_HEALTHY = MetricName(
    "sidecar_endpoint_healthy",
    "gauge",
    "1 = its health check passes; 0 = it fails, or was not answered yet.",
    ("cluster", "endpoint"),
)
ENDPOINT_EJECTED = MetricName(
    "sidecar_endpoint_ejected",
    "gauge",
    "1 = left out for a while, for doing worse than it should.",
    ("cluster", "endpoint"),
)
BREAKER_STATE = MetricName(
    "sidecar_circuit_breaker_state", "gauge", "0 closed, 1 half-open, 2 open.", ("cluster", "endpoint")
)
BREAKER_CHANGES = MetricName(
    "sidecar_circuit_breaker_changes_total", "counter", "Circuit breakers that entered a state.", ("cluster", "state")
)
EJECTIONS = MetricName("sidecar_ejections_total", "counter", "Endpoints ejected.", ("cluster",))
HEALTH_CHANGES = MetricName(
    "sidecar_health_changes_total", "counter", "Endpoints that became healthy or unhealthy.", ("cluster", "state")
)
CLUSTER_ACTIVE = MetricName(
    "sidecar_cluster_attempts_active", "gauge", "Attempts that run at all endpoints of a cluster.", ("cluster",)
)
CLUSTER_PENDING = MetricName(
    "sidecar_cluster_rpcs_pending", "gauge", "RPCs that wait for a connection of a cluster.", ("cluster",)
)
CLUSTER_PANIC = MetricName(
    "sidecar_cluster_panic", "gauge", "1 = so few endpoints are fit that health and ejection are ignored.", ("cluster",)
)
OVERLOADED = MetricName(
    "sidecar_overloaded_total",
    "counter",
    "RPCs refused by a concurrency limit: no place (limit), or the sidecar itself was late (lag).",
    ("listener", "route", "cause"),
)
QUEUED = MetricName("sidecar_rpcs_queued", "gauge", "RPCs that wait for a place of their route.", ("listener", "route"))
CONFIG_GENERATION = MetricName("sidecar_config_generation", "gauge", "Number of the configuration in force.")
CONFIG_RELOADS = MetricName(
    "sidecar_config_reloads_total", "counter", "Reloads of the configuration by their result.", ("result",)
)
CONFIG_LAST_SUCCESS = MetricName(
    "sidecar_config_last_success_timestamp_seconds", "gauge", "When the configuration in force was loaded."
)
CERTIFICATE_EXPIRY = MetricName(
    "sidecar_certificate_expiry_timestamp_seconds", "gauge", "When a certificate in use ends.", ("file",)
)
LOOP_LAG = MetricName("sidecar_loop_lag_seconds", "gauge", "How late the event loop ran its last tick.")
LOOP_LATE = MetricName(
    "sidecar_loop_late_seconds_total", "counter", "By how much all ticks of the event loop, ten a second, were late."
)
DEFECTS = MetricName("sidecar_defects_total", "counter", "Exceptions that should not be; see the log.", ("where",))

FAULTS = MetricName("sidecar_faults_total", "counter", "Faults injected on purpose.", ("listener", "route", "kind"))
RETRIES = MetricName(
    "sidecar_retries_total",
    "counter",
    "Attempts after the first: started, or not for lack of budget, or because the agent said so.",
    ("listener", "route", "result"),
)
HEDGES = MetricName("sidecar_hedges_total", "counter", "Attempts started beside a slow one.", ("listener", "route"))

AUDIT_RECORDS = MetricName(
    "sidecar_audit_records_total", "counter", "Records written to an audit log, gaps included.", ("sink",)
)
AUDIT_DROPPED = MetricName(
    "sidecar_audit_dropped_total", "counter", "Records that found the queue of their audit log full.", ("sink",)
)
AUDIT_QUEUE = MetricName("sidecar_audit_queue", "gauge", "Records that are not in their audit log yet.", ("sink",))
AUDIT_WRITE_FAILURES = MetricName(
    "sidecar_audit_write_failures_total",
    "counter",
    "Writes to an audit log that failed and are tried again.",
    ("sink",),
)

ROLLOUT_PERCENT = MetricName(
    "sidecar_rollout_percent", "gauge", "Share of the new RPCs that a version is to get.", ("cluster", "version")
)
ROLLOUT_MEASURED_PERCENT = MetricName(
    "sidecar_rollout_measured_percent",
    "gauge",
    "Share of the attempts that a version has really got since its share last changed.",
    ("cluster", "version"),
)
ROLLOUT_LEADS = MetricName(
    "sidecar_rollout_leads", "gauge", "1 where this sidecar decides about the rollout.", ("cluster",)
)
ROLLOUT_TRANSITIONS = MetricName(
    "sidecar_rollout_transitions_total", "counter", "Changes of a rollout, by the phase entered.", ("cluster", "phase")
)
ROLLOUT_CHECKS = MetricName(
    "sidecar_rollout_checks_total", "counter", "Analyses of a candidate, by verdict.", ("cluster", "verdict")
)
ROLLOUT_ACTIONS = MetricName(
    "sidecar_rollout_actions_total", "counter", "Webhooks and commands on transitions.", ("kind", "result")
)

RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; the buckets of OpenTelemetry's RPC conventions, with two finer ones for what a sidecar adds."""

WORKERS = MetricName("sidecar_workers", "gauge", "Workers by where they stand in their life.", ("state",))
WORKER_RESTARTS = MetricName(
    "sidecar_worker_restarts_total", "counter", "Workers that died and were replaced, by place.", ("worker",)
)

AGENT_SERVING = MetricName("sidecar_agent_serving", "gauge", "1 = the supervised agent runs and gets RPCs.")
AGENT_GIVEN_UP = MetricName(
    "sidecar_agent_given_up", "gauge", "1 = too many restarts: manual intervention is required."
)
AGENT_STARTS = MetricName("sidecar_agent_starts_total", "counter", "Starts of the supervised agent.")
AGENT_MEMORY = MetricName(
    "sidecar_agent_memory_bytes", "gauge", "Resident memory of the supervised agent and what it started."
)
RECOVERIES = MetricName(
    "sidecar_recoveries_total",
    "counter",
    "Attempts to repair something, by symptom, by what was done, and by what came of it.",
    ("symptom", "action", "result"),
)

ALERTS_FIRING = MetricName(
    "sidecar_alerts_firing",
    "gauge",
    "Alerts of a rule that fire now, one per listener, endpoint …",
    ("alert", "severity"),
)
ALERT_NOTIFICATIONS = MetricName(
    "sidecar_alert_notifications_total",
    "counter",
    "Messages about alerts by their receiver: sent, failed (and tried again), refused (and not), dropped.",
    ("receiver", "result"),
)
CPU_USAGE = MetricName(
    "sidecar_cpu_usage_ratio",
    "gauge",
    "Processor time of this process in the last minute, of one core or of its share.",
)
MEMORY_USAGE = MetricName(
    "sidecar_memory_usage_ratio",
    "gauge",
    "Memory in use where the sidecar runs, of the container's limit or of the machine.",
)
STORE_UP = MetricName("sidecar_store_up", "gauge", "1 = the store has answered when it was last asked.")
ROLLOUT_ROLLED_BACK = MetricName(
    "sidecar_rollout_rolled_back",
    "gauge",
    "1 = it was sent back, and not by hand; until it is begun again.",
    ("cluster",),
)
ROLLOUT_STABLE_DOWN = MetricName(
    "sidecar_rollout_stable_down", "gauge", "1 = stable does not serve, the candidate takes everything.", ("cluster",)
)

SPANS = MetricName(
    "sidecar_spans_total",
    "counter",
    "Spans of sampled RPCs by what became of them: exported, failed (the collector did not take them), dropped (queue full).",
    ("result",),
)
ATTEMPTS = MetricName(
    "sidecar_attempts_total", "counter", "Tries of RPCs at endpoints, the first of each RPC included.", _RPC
)
STORE_SECONDS = MetricName(
    "sidecar_store_duration_seconds", "histogram", "From a question to the store until its answer.", ("operation",)
)
STORE_ERRORS = MetricName(
    "sidecar_store_errors_total", "counter", "Questions to the store that had no answer, by why.", ("operation", "kind")
)
BUDGET_LEFT = MetricName(
    "sidecar_budget_left_ratio",
    "gauge",
    "What is left to whoever has least left of a budget, of the limit; not of shared ones, which the store keeps.",
    ("listener", "limit"),
)

# What dashboards for gRPC expect, as go-grpc-middleware names it: of callers we serve (inbound), and of our own (outbound).
_DE_FACTO = ("grpc_type", "grpc_service", "grpc_method")
GRPC_SERVER_STARTED = MetricName("grpc_server_started_total", "counter", "RPCs that have begun.", _DE_FACTO)
GRPC_SERVER_HANDLED = MetricName(
    "grpc_server_handled_total", "counter", "RPCs that have ended, by status code.", (*_DE_FACTO, "grpc_code")
)
GRPC_SERVER_RECEIVED = MetricName(
    "grpc_server_msg_received_total", "counter", "Messages of callers, of RPCs that have ended.", _DE_FACTO
)
GRPC_SERVER_SENT = MetricName(
    "grpc_server_msg_sent_total", "counter", "Messages to callers, of RPCs that have ended.", _DE_FACTO
)
GRPC_SERVER_SECONDS = MetricName(
    "grpc_server_handling_seconds", "histogram", "From the caller's headers to the end of the RPC.", _DE_FACTO
)
GRPC_CLIENT_STARTED = MetricName("grpc_client_started_total", "counter", "RPCs of our app that have begun.", _DE_FACTO)
GRPC_CLIENT_HANDLED = MetricName(
    "grpc_client_handled_total",
    "counter",
    "RPCs of our app that have ended, by status code.",
    (*_DE_FACTO, "grpc_code"),
)
GRPC_CLIENT_RECEIVED = MetricName(
    "grpc_client_msg_received_total", "counter", "Messages that our app was sent, of RPCs that have ended.", _DE_FACTO
)
GRPC_CLIENT_SENT = MetricName(
    "grpc_client_msg_sent_total", "counter", "Messages of our app, of RPCs that have ended.", _DE_FACTO
)
GRPC_CLIENT_SECONDS = MetricName(
    "grpc_client_handling_seconds", "histogram", "From our app's headers to the end of the RPC.", _DE_FACTO
)
LOG_LINES_DROPPED = MetricName(
    "sidecar_log_lines_dropped_total", "counter", "Lines that found the queue of the log full, or its reader gone."
)
