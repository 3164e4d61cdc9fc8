"""Mail over SMTP: STARTTLS or TLS, with a login if there is one; one mail for all alerts of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.alerts.alert import said_time
from sidecar.alerts.delivery import NotDelivered
from sidecar.alerts.senders.http import tls_context
from sidecar.alerts.senders.secret import Secret
from sidecar.transport.bind import split_host_port

if TYPE_CHECKING:
    import smtplib
    from collections.abc import Sequence
    from email.message import EmailMessage

    from sidecar.alerts.alert import Alert
    from sidecar.alerts.config import EmailConfig

_PERMANENT = 500
"""RFC 5321 §4.2.1: 5yz, the same will be answered again."""
_LONGEST_SUBJECT = 200


class Mail:
    kind = "email"
    batch = 50

    def __init__(self, config: EmailConfig, timeout: float, node: str) -> None:
        """`timeout`: seconds for each step of the conversation."""
        self._config = config
        self._timeout = timeout
        self._node = node

    def send(self, alerts: Sequence[Alert]) -> None:
        # Not above: whoever sends no mail need not load it.
        import smtplib

        message = self.message(alerts)
        try:
            with self._connected() as server:
                self._log_in(server)
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            raise NotDelivered(
                f"all recipients are refused: SMTP {', '.join(map(str, codes))}", is_final=min(codes) >= _PERMANENT
            ) from None
        except smtplib.SMTPAuthenticationError as error:
            # A password may be replaced meanwhile, in its file.
            raise NotDelivered(f"the login is refused: SMTP {error.smtp_code}") from None
        except smtplib.SMTPResponseException as error:
            raise NotDelivered(f"SMTP {error.smtp_code}", is_final=error.smtp_code >= _PERMANENT) from None
        except smtplib.SMTPNotSupportedError:
            wanted = "STARTTLS" if self._config.tls == "starttls" else "a login"
            raise NotDelivered(f"the server does not offer {wanted}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotDelivered(_cause(error)) from None

    def _connected(self) -> smtplib.SMTP:
        import smtplib

        config = self._config
        host, port = split_host_port(config.smtp)
        host = host.strip("[]")
        # Without a name of ours smtplib would ask DNS for one.
        ours, timeout = self._node or "localhost", self._timeout
        if config.tls == "tls":
            return smtplib.SMTP_SSL(host, port, ours, timeout=timeout, context=tls_context(config.trusted_ca))
        server = smtplib.SMTP(host, port, ours, timeout)
        if config.tls == "starttls":
            try:
                server.starttls(context=tls_context(config.trusted_ca))
            except BaseException:
                server.close()
                raise
        return server

    def _log_in(self, server: smtplib.SMTP) -> None:
        config = self._config
        if config.username is not None:
            server.login(config.username, Secret(config.password, config.password_file).read())

    def message(self, alerts: Sequence[Alert]) -> EmailMessage:
        """The mail, complete."""
        from email.message import EmailMessage

        first = alerts[0]
        subject = first.title if len(alerts) == 1 else f"{len(alerts)} alerts of {self._node}: {first.title}, …"
        message = EmailMessage()
        message["Subject"] = _line(subject)[:_LONGEST_SUBJECT]
        message["From"] = self._config.sender or f"sidecar@{self._node or 'localhost'}"
        message["To"] = ", ".join(self._config.to)
        # RFC 3834 §5: no answers of machines to a machine.
        message["Auto-Submitted"] = "auto-generated"
        message["X-Sidecar-Alerts"] = ", ".join(sorted({_line(each.name) for each in alerts}))
        message.set_content("\n\n".join(map(_text, alerts)) + "\n")
        return message


def _cause(error: Exception) -> str:
    # smtplib tells of a timeout in the text alone.
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return "no answer in time"
    return str(getattr(error, "verify_message", None) or getattr(error, "strerror", None) or type(error).__name__)


def _text(alert: Alert) -> str:
    lines = [alert.title, f"  rule   {alert.rule}", f"  since  {said_time(alert.began)}"]
    if alert.ended is not None:
        lines.append(f"  until  {said_time(alert.ended)}")
    lines.extend(f"  {name}  {value}" for name, value in alert.labels)
    if alert.runbook is not None:
        lines.append(f"  what to do: {alert.runbook}")
    return "\n".join(lines)


def _line(text: str) -> str:
    """RFC 5322 §2.2: nothing of the text may begin another field."""
    return "".join(each if each.isprintable() else " " for each in text)
