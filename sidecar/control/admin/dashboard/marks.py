"""What the panels share: marks that say with a shape what colours say, and the place of each reader's token."""

from __future__ import annotations

from sidecar.control.admin.dashboard.html import Html, tag

CSRF = "\N{SYMBOL FOR SUBSTITUTE}csrf\N{SYMBOL FOR SUBSTITUTE}"
"""Stands where each reader gets a token of its own: panels are drawn once for all."""
MARKS = {"good": "●", "warn": "▲", "bad": "✕", "calm": "○"}


def chip(text: str, kind: str) -> Html:
    """A state in a word, with its mark."""
    return tag("span", tag("i", MARKS[kind], aria_hidden="true"), f" {text}", class_=f"chip {kind}")
