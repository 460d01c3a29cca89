"""The regression program, run as a shell would."""

from __future__ import annotations

from safe_rlhf_panacea.regression import main as program


def run(capsys, *argv):
    """Exit code, standard output, and the lines on standard error."""
    try:
        code = program.main([*map(str, argv), "--progress", "false"])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, [line for line in captured.err.splitlines() if line.strip()]
