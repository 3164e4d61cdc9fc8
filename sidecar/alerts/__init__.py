"""Alerts: what is wrong for long enough is told to people, once, and again when it is over.

    config.py     the section of the file        measures.py   counters → values, each of a subject
    judge.py      values → alerts, with time     delivery.py   alerts → messages: grouped, repeated, retried
    senders/      messages → webhook, Slack, PagerDuty, mail
    alerts.py     puts them together, once per process

Nothing here is on the path of a call: counters are read every few seconds, and messages leave in threads of their own.
"""
