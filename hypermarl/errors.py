"""The one error a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave us cannot be used; the message is one clear sentence. The command line exits with 2."""
