"""``python -m safe_rlhf_panacea.memory``."""

from safe_rlhf_panacea.memory.main import main

if __name__ == "__main__":
    raise SystemExit(main())
