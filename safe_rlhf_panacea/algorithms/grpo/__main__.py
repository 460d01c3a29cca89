"""``python -m safe_rlhf_panacea.algorithms.grpo``."""

from safe_rlhf_panacea.algorithms.grpo import main

if __name__ == "__main__":
    main()
