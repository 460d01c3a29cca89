"""Hold today's code against recorded numbers; see ``references/README.md``."""

from __future__ import annotations

import sys
from pathlib import Path

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safe_rlhf_panacea.regression.main import main

if __name__ == "__main__":
    sys.exit(main())
