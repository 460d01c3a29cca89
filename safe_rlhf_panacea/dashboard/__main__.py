"""``python -m safe_rlhf_panacea.dashboard``."""

from safe_rlhf_panacea.dashboard.main import main

if __name__ == "__main__":
    main()
