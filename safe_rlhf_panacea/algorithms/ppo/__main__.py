"""``python -m safe_rlhf_panacea.algorithms.ppo``."""

from safe_rlhf_panacea.algorithms.ppo import main

if __name__ == "__main__":
    main()
