"""``python -m safe_rlhf_panacea.algorithms.dpo``."""

from safe_rlhf_panacea.algorithms.dpo import main

if __name__ == "__main__":
    main()
