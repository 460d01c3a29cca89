"""What a client is told when it does not get what it asked for, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.printing import printable_line

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """OpenAI's JSON of an error."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = None if param is None else printable_line(param)
    error = {"message": printable_line(message), "type": kind, "param": param, "code": code}
    return {"error": error}


class ApiError(Exception):
    """An answer that is an error: its status and one line."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        """Say what is wrong."""
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, code=code, param=param)
