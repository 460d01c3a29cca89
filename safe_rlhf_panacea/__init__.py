"""Panacea on Safe-RLHF: one language model that holds the whole Pareto front."""

import sys

if sys.argv[:1] == ["-m"]:  # Python is looking for the module of `python -m safe_rlhf_panacea...`
    from safe_rlhf_panacea.errors import tell_interruption

    sys.excepthook = tell_interruption

__version__ = "0.1.0"
