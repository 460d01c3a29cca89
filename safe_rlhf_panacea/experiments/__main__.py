"""``python -m safe_rlhf_panacea.experiments``."""

from safe_rlhf_panacea.experiments.main import main

if __name__ == "__main__":
    main()
