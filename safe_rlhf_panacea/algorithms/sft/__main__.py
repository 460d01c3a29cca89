"""``python -m safe_rlhf_panacea.algorithms.sft``."""

from safe_rlhf_panacea.algorithms.sft import main

if __name__ == "__main__":
    main()
