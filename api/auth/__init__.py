"""Who calls: API keys, JWTs, and short-lived tokens for one session's stream. Nothing here asks Redis."""

from api.auth.authenticator import Authenticator, Principal, authenticate
from shared.credentials import ANONYMOUS

__all__ = ["ANONYMOUS", "Authenticator", "Principal", "authenticate"]
