"""The server: ``python -m safe_rlhf_panacea.serve``."""

from __future__ import annotations

from safe_rlhf_panacea.serving.main import main

if __name__ == "__main__":
    main()
